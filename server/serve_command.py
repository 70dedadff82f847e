"""``genarm serve``: from flags and a file to a listening server, and to its orderly end."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from arm_models.errors import UserError
from server.access import KeyRing, is_loopback
from server.config import Deployment, HttpSettings, read_config_file, read_deployment
from server.group.follow import follow
from server.group.launch import launch, watch_launcher
from server.group.lead import Lead, lead_to_the_end
from server.group.seat import Seat
from server.log import log_to_stderr
from server.products import bound_kept_products
from server.runtime import load_runtime

if TYPE_CHECKING:
    from types import FrameType

HTTP = ("host", "port", "api_key_file", "allow_anonymous", "allowed_hosts", "max_queue", "drain_seconds")
"""What flags set of the section."""

LAST_WORDS_SECONDS = 1.0
"""How long a dead server still answers, so that errors reach the clients that wait for them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags win over the file; without --config and --base the shipped demo models are served."""
    models = parser.add_argument_group("models (local folder or Hugging Face id; full model or LoRA adapter)")
    models.add_argument("--config", type=Path, metavar="FILE", help="a deployment in YAML")
    models.add_argument("--base", metavar="MODEL", help="the model that is guided")
    models.add_argument(
        "--reward", action="append", default=[], metavar="NAME=MODEL", help="a reward model; may be repeated"
    )
    models.add_argument(
        "--model-name", metavar="ID", help="the id clients use (default: the base's last part)"
    )
    models.add_argument(
        "--presets", type=Path, metavar="FILE", help="named weights to offer besides, as the page saves them"
    )
    models.add_argument("--device", metavar="DEVICE", help="cpu, cuda or cuda:N, for every model")
    models.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16", "int8"), help="for every model"
    )
    models.add_argument(
        "--tensor-parallel",
        type=int,
        metavar="N",
        help="processes that the base is split over, started by this command (default: 1)",
    )
    http = parser.add_argument_group("http")
    http.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    http.add_argument("--port", type=int, help="port to listen on (default: 8000; 0 takes a free one)")
    http.add_argument("--api-key-file", metavar="FILE", help="keys that may use the server; see `genarm key`")
    http.add_argument(
        "--allow-anonymous",
        action="store_true",
        default=None,
        help="without keys, listen on other addresses than loopback too",
    )
    http.add_argument(
        "--allowed-host",
        dest="allowed_hosts",
        action="append",
        metavar="NAME",
        help="a Host header to answer besides loopback's; may be repeated; '*': any",
    )
    http.add_argument("--max-queue", type=int, metavar="N", help="requests that may wait (default: 256)")
    http.add_argument(
        "--drain-seconds", type=float, metavar="S", help="time running answers get at the end (default: 30)"
    )
    http.add_argument(
        "--otlp-endpoint",
        metavar="URL",
        help="send traces to this OpenTelemetry collector, e.g. http://localhost:4318 (needs the extra otel)",
    )
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads of one forward (default: torch's)"
    )
    engine.add_argument(
        "--max-sequences", type=int, metavar="N", help="answers decoded side by side (default: 32)"
    )
    engine.add_argument("--kv-tokens", type=int, metavar="N", help="cache of each model, in tokens")
    engine.add_argument(
        "--speculation",
        choices=("off", "rewards", "prompt", "auto"),
        help="who guesses tokens ahead of the base; no answer changes (default: off)",
    )
    engine.add_argument(
        "--deterministic",
        action="store_true",
        default=None,
        help="bitwise equal logits alone and in any batch",
    )


def run(args: argparse.Namespace) -> int:
    """Serves until a signal (exit code 0) or until serving is impossible (1; 2 when the models cannot be
    loaded).
    """
    bound_kept_products()
    deployment = deployment_from(args)
    processes = deployment.base.tensor_parallel
    seat = Seat.of(processes)
    if seat is None and processes > 1:
        return launch(args.arguments, processes, deployment.threads)
    watch_launcher()
    if seat is not None and seat.rank > 0:
        log_to_stderr()
        return follow(deployment, seat)
    keys = KeyRing(deployment)
    listening = _listen(deployment.http, anonymous=not keys.required)
    log_to_stderr()
    if seat is None:
        return _serve(deployment, keys, listening, None)
    return lead_to_the_end(lambda: _serve(deployment, keys, listening, seat))


def deployment_from(args: argparse.Namespace) -> Deployment:
    """What the flags and the file declare together.

    Raises:
        UserError: one line that names the flag or the key at fault.
    """
    if args.config is not None:
        source, declared = str(args.config), read_config_file(args.config)
    elif args.base is not None:
        source, declared = "command line", {}
    elif args.reward:
        raise UserError("--reward needs --base or --config: reward models are made for one base")
    else:
        source, declared = "demo", demo_config()
    return read_deployment(_with_flags(declared, args), source)


def _with_flags(declared: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    merged = dict(declared)
    if args.base is not None:
        merged["base"] = {**_mapping(merged.get("base")), "model": args.base}
        merged.setdefault("model", Path(args.base).name or "base")
    if args.model_name is not None:
        merged["model"] = args.model_name
    for name in ("threads", "otlp_endpoint"):
        if getattr(args, name) is not None:
            merged[name] = getattr(args, name)
    merged["rewards"] = _rewards(merged.get("rewards", ()), args.reward)
    if args.presets is not None:
        merged["presets"] = _over(merged.get("presets", {}), _presets(args.presets))
    for section, names in (
        ("http", HTTP),
        ("engine", ("max_sequences", "kv_tokens", "deterministic", "speculation")),
    ):
        flags = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
        if flags:
            merged[section] = _over(merged.get(section, {}), flags)
    if args.tensor_parallel is not None:
        merged["base"] = _over(merged.get("base", {}), {"tensor_parallel": args.tensor_parallel})
    held = {name: getattr(args, name) for name in ("device", "dtype") if getattr(args, name) is not None}
    if held:
        merged["base"] = _over(merged.get("base", {}), held)
        for section in ("rewards", "policies", "scorers"):
            if isinstance(merged.get(section), (list, tuple)):
                merged[section] = [_over(model, held) for model in merged[section]]
        if "conditioned" in merged:
            merged["conditioned"] = _over(merged["conditioned"], held)
    return merged


def _over(declared: Any, flags: dict[str, Any]) -> Any:
    """The flags on top of a section; what is no mapping stays, to be complained about under its own name."""
    return {**declared, **flags} if isinstance(declared, dict) else declared


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _rewards(declared: Any, flags: Sequence[str]) -> Any:
    """The file's rewards with the flags' models: a known name gets the new model, an unknown one is added."""
    if not flags or not isinstance(declared, (list, tuple)):
        return declared
    rewards = list(declared)
    for flag in flags:
        name, equals, model = flag.partition("=")
        if not (name and equals and model):
            raise UserError(f"--reward {flag}: must be NAME=MODEL")
        same = [index for index, reward in enumerate(rewards) if _mapping(reward).get("name") == name]
        if same:
            rewards[same[0]] = {**rewards[same[0]], "model": model}
        else:
            rewards.append({"name": name, "model": model})
    return rewards


def _presets(file: Path) -> dict[str, Any]:
    declared = read_config_file(file)
    if set(declared) != {"presets"} or not isinstance(declared["presets"], dict):
        raise UserError(f"{file}: must hold the key presets and no other")
    return declared["presets"]


def demo_config() -> dict[str, Any]:
    """What is served without arguments: the shipped models; raises ``UserError`` where they are not there."""
    from arm_models.demo.deployment import demo_deployment

    demo = demo_deployment()
    if demo.missing:
        raise UserError(f"the demo models are not there ({demo.missing[0]}): run `genarm demo build`")
    return {
        "model": demo.model_id,
        "description": demo.description,
        "threads": 1,  # models this small lose more in handing work between threads than they gain
        "base": {"model": str(demo.base)},
        "rewards": [
            {
                "name": reward.name,
                "model": str(reward.path),
                "description": reward.description,
                "default": reward.default,
                "range": reward.range,
            }
            for reward in demo.rewards
        ],
        "presets": {name: dict(weights) for name, weights in demo.presets.items()},
    }


def _listen(http: HttpSettings, *, anonymous: bool) -> socket.socket:
    """Bound before anything slow begins, so that a taken port is known at once, and an address that must not be open to
    everybody.
    """
    host, port = http.host, http.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # what follows is the address once more
        raise UserError(f"cannot listen on {host}:{port}: {reason}") from None
    if anonymous and not http.allow_anonymous and not is_loopback(listening.getsockname()[0]):
        listening.close()
        raise UserError(
            f"http.host {host} can be reached from other machines: give --api-key-file, or --allow-anonymous to let "
            "everybody in"
        )
    return listening


def _leave(code: int) -> NoReturn:
    """Ends the process here and now. Nothing is left to be written, and what else would be done at the end takes seconds: the
    interpreter takes its modules apart, and an engine's thread may hang in a broken device.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve(deployment: Deployment, keys: KeyRing, listening: socket.socket, seat: Seat | None) -> int:
    """``seat``: in a group of processes that share the base, where this is rank 0; None where it is on its own."""
    # In a container it is process 1, which a signal without a handler does not end; and the imports take seconds.
    signal.signal(signal.SIGTERM, lambda *_: _leave(0))
    import uvicorn
    from fastapi import FastAPI

    from server.api.connection import UVICORN
    from server.api.serving import Serving
    from server.app import create_app
    from server.garbage import set_aside

    class DrainingServer(uvicorn.Server):
        """Lets running answers finish after the first signal while it still says so on /ready; ends at once
        at the second.
        """

        fatal: BaseException | None = None
        draining: Any = None
        loop: asyncio.AbstractEventLoop

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
            """A signal came. Not passed on to uvicorn, which would close the port first."""
            if self.draining is not None:
                os._exit(128 + sig)  # nothing is half-written, and whoever asks twice does not want to wait
            self.draining = asyncio.run_coroutine_threadsafe(self._drain(), self.loop)

        async def serve(self, sockets: list[socket.socket] | None = None) -> None:
            """Serves until the end."""
            self.loop = asyncio.get_running_loop()
            await super().serve(sockets)

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            """Begins to serve."""
            # Not earlier: from here on a signal is heard.
            print(f"genarm: listening on {url}, loading {deployment.model}", flush=True)
            await super().startup(sockets)

        async def _drain(self) -> None:
            await serving.drain(deployment.http.drain_seconds)
            self.should_exit = True

        def die(self, error: BaseException) -> None:
            """Serving is impossible: last answers go out, then the process ends."""
            self.fatal = error
            loading_failed = isinstance(error, UserError)
            self.loop.call_later(0 if loading_failed else LAST_WORDS_SECONDS, self._exit)

        def _exit(self) -> None:
            self.should_exit = True

    def break_up(error: Exception) -> None:
        """Another process of the group is gone; from any thread."""
        if not uvicorn_server.loop.is_closed():
            uvicorn_server.loop.call_soon_threadsafe(serving.fail, error)

    lead = None if seat is None else Lead(seat, break_up)
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def announce() -> None:
        set_aside()
        rewards = ", ".join(deployment.reward_names) or "none"
        print(f"genarm: ready on {url} (model {deployment.model}; rewards {rewards})", flush=True)

    app: FastAPI = create_app(
        deployment,
        keys=keys,
        load=load_runtime if lead is None else lead.load,
        on_ready=announce,
        on_dead=lambda error: uvicorn_server.die(error),
    )
    serving: Serving = app.state.serving
    config = uvicorn.Config(
        app,
        **UVICORN,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    uvicorn_server = DrainingServer(config)
    uvicorn_server.run(sockets=[listening])
    if lead is not None:
        lead.leave()
    if isinstance(uvicorn_server.fatal, UserError):
        raise uvicorn_server.fatal
    _leave(0 if uvicorn_server.fatal is None else 1)
