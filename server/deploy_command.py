"""``genarm deploy``: the server as several replicas, on the machine or the cluster that Ray has."""

from __future__ import annotations

import argparse
import os
import queue
import signal
import socket
import threading
from collections.abc import Mapping
from importlib.util import find_spec

from arm_models.errors import UserError
from server import serve_command
from server.access import KeyRing, is_loopback
from server.config import Deployment, HttpSettings
from server.replicas.settings import ReplicaSettings, check_carried, read_settings

SETTINGS = (
    "replicas",
    "max_replicas",
    "target_ongoing",
    "upscale_seconds",
    "downscale_seconds",
    "gateways",
    "num_cpus",
    "num_gpus",
    "surge_percent",
)
"""Fields of ``ReplicaSettings``, and what their options are called."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of ``genarm serve``, and how many replicas of it."""
    parser.add_argument("where", choices=("ray",), help="on Ray Serve (needs the extra ray)")
    serve_command.add_arguments(parser)
    group = parser.add_argument_group("replicas")
    group.add_argument("--replicas", type=int, metavar="N", help="of the models (default: 1)")
    group.add_argument(
        "--max-replicas", type=int, metavar="N", help="as many where there is load (default: no more)"
    )
    group.add_argument(
        "--target-ongoing",
        type=int,
        metavar="N",
        help="requests under way on each replica, above which more are started (default: a full batch)",
    )
    group.add_argument(
        "--upscale-seconds", type=float, metavar="S", help="for how long, before one is added (default: 30)"
    )
    group.add_argument(
        "--downscale-seconds",
        type=float,
        metavar="S",
        help="how long fewer have to be enough, before one ends (default: 600)",
    )
    group.add_argument(
        "--gateways", type=int, metavar="N", help="processes that requests meet first (default: 1)"
    )
    group.add_argument("--num-cpus", type=float, metavar="N", help="reserved for a replica (default: 1)")
    group.add_argument("--num-gpus", type=float, metavar="N", help="reserved for a replica (default: 0)")
    group.add_argument(
        "--surge-percent",
        type=int,
        metavar="P",
        help="replicas that a new version may have beside the old one (default: 0)",
    )
    group.add_argument(
        "--address",
        metavar="RAY",
        help="the cluster: auto, or HOST:PORT of its head; deploys there and ends (default: one here, while this runs)",
    )


def run(args: argparse.Namespace) -> int:
    """Deploys and returns 0; without ``--address`` once a signal has come and what ran has ended. At a second signal it does not
    wait, and returns 128 and its number.

    Raises:
        UserError: what is declared is wrong, or cannot be deployed.
    """
    deployment = serve_command.deployment_from(args)
    check_carried(deployment)
    _check(deployment, is_local=args.address is None)
    given = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    settings = read_settings(given, "command line")
    if find_spec("ray") is None:
        raise UserError("genarm deploy ray needs Ray: pip install 'genarm[ray]'")
    return _deploy(deployment, settings, args.address)


def _check(deployment: Deployment, *, is_local: bool) -> None:
    """The address is one that may be listened on, and is free. Raises ``UserError``."""
    http = deployment.http
    if http.port == 0:
        raise UserError("--port 0: Ray Serve needs a port to listen on")
    try:
        family, *_, address = socket.getaddrinfo(http.host, http.port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(f"cannot listen on {http.host}:{http.port}: {error.strerror}") from None
    if not (http.allow_anonymous or KeyRing(deployment).required or is_loopback(str(address[0]))):
        raise UserError(
            f"http.host {http.host} can be reached from other machines: give --api-key-file, or --allow-anonymous to let "
            "everybody in"
        )
    if not is_local:
        return  # the port is that of other machines, or of the version that this one replaces
    try:
        socket.create_server((http.host, http.port), family=family).close()
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise UserError(f"cannot listen on {http.host}:{http.port}: {reason}") from None


def _check_room(settings: ReplicaSettings, there: Mapping[str, float]) -> None:
    """A cluster that cannot grow has what the replicas ask for: Serve would wait for it without end. Raises ``UserError``."""
    for option, resource in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        wanted, has = settings.replicas * getattr(settings, option), there.get(resource, 0.0)
        if wanted > has:
            raise UserError(
                f"--{option.replace('_', '-')}: {settings.replicas} replicas of {getattr(settings, option):g} take "
                f"{wanted:g} {resource}s, and this machine has {has:g}"
            )


def _check_address(http: HttpSettings, host: str, port: int) -> None:
    """Serve listens where it was started, whatever a later version says. Raises ``UserError``."""
    for name, wanted, there in (("host", http.host, host), ("port", http.port, port)):
        if wanted != there:
            raise UserError(
                f"http.{name} is {wanted}, but Serve on this cluster listens on {host}:{port}: deploy with that, or end it "
                "with `serve shutdown`"
            )


def _deploy(deployment: Deployment, settings: ReplicaSettings, address: str | None) -> int:
    from server.replicas.environment import ENVIRONMENT

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # for a Ray that is started here; other nodes have their own
    import ray
    from ray import serve
    from ray.serve.context import _get_global_client

    from server.replicas.application import NAME, application

    try:
        ray.init(address=address or "local", include_dashboard=False if address is None else None)
    except (ConnectionError, ValueError) as error:
        raise UserError(f"--address {address}: {_refusal(error)}") from None
    try:
        if address is None:
            for number in (signal.SIGINT, signal.SIGTERM):  # behind init, which has handlers of its own
                signal.signal(number, _interrupt)
            _check_room(settings, ray.cluster_resources())
        http = deployment.http
        there = _get_global_client(raise_if_no_controller_running=False)
        if there is not None:
            _check_address(http, there.http_config.host, there.http_config.port)
        serve.start(
            proxy_location="EveryNode",
            http_options={"host": http.host, "port": http.port},
            logging_config={"enable_access_log": False},  # each request has a line of ours
        )
        ray_address = ray.get_runtime_context().gcs_address
        print(f"genarm: deploying {deployment.model} on Ray at {ray_address}", flush=True)
        try:
            serve.run(application(deployment, settings), name=NAME, route_prefix="/")
        except RuntimeError as error:
            told = [one.message for one in serve.status().applications[NAME].deployments.values()]
            raise UserError(f"cannot be deployed: {_reason(str(error), *told)}") from None
        host = f"[{http.host}]" if ":" in http.host else http.host
        print(f"genarm: ready on http://{host}:{http.port} (model {deployment.model})", flush=True)
        return _stay(http.drain_seconds) if address is None else 0
    finally:
        ray.shutdown()


def _stay(drain_seconds: float) -> int:
    """Until a signal has come, and then until nothing is under way any more; a second signal does not wait for that."""
    from ray import serve

    from server.replicas.drain import drain

    heard: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: heard.put(number))
    heard.get()

    def end() -> None:
        try:
            drain(drain_seconds)
        finally:
            heard.put(0)

    threading.Thread(target=end, name="draining", daemon=True).start()
    second = heard.get()
    if second:
        return 128 + second
    serve.shutdown()
    return 0


def _interrupt(*_: object) -> None:
    """Nobody is served yet: there is nothing to end in order."""
    raise KeyboardInterrupt


def _refusal(error: BaseException) -> str:
    """Why a cluster cannot be reached, in one line."""
    causes, one = list[str](), error.__cause__
    while one is not None:
        causes.append(str(one))
        one = one.__cause__ or one.__context__
    if any("InvalidAuthToken" in cause for cause in causes):
        return "the cluster wants its own token, in ~/.ray/auth_token or RAY_AUTH_TOKEN"
    return " ".join(str(error).split())


def _reason(*texts: str) -> str:
    """What a replica died of, in one line: Serve tells it at the end of the replica's traceback, of a first version in what it
    raises and of a later one in what it says of the deployment.
    """
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("RuntimeError: ")]
    return told[-1].removeprefix("RuntimeError: ") if told else lines[0]
