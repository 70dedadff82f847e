"""The deployments that Ray Serve runs, and how they are wired.

    Serve's proxy → gateway → replica, as many as there are load for
                               ↓ ↑
                             registry

``build`` is what a Serve config file names (``deploy/ray/serve.yaml``); ``genarm deploy ray`` calls ``application``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from arm_models.errors import UserError
from server.access import KeyRing
from server.config import Deployment, read_config_file, read_deployment
from server.log import log_to_stderr
from server.replicas.calls import ServeReplicas
from server.replicas.crowd import Crowds
from server.replicas.gateway import Gateway
from server.replicas.registry import Registry
from server.replicas.rendezvous import slack
from server.replicas.replica import Replica
from server.replicas.secret import cluster_secret
from server.replicas.settings import ReplicaSettings, check_carried, read_settings
from server.replicas.ticket import Tickets

NAME = "genarm"
"""Of the application in Serve."""

REPLICA = "replica"
"""Of its deployment that has the models."""

MORE_SECONDS = 10.0
"""What Serve waits beyond ``http.drain_seconds`` before it kills a replica."""

GATEWAY_SECONDS = 3600.0
"""What a gateway has beyond that. When a new version comes gateways change first, and what they pass on ends with the old
replicas, which wait until new ones have loaded their models.
"""

HEALTH_SECONDS = 1.0
"""Between two looks at a replica; one whose engine is dead in three is replaced."""

STILL_SECONDS = 10.0
"""How long a look may take; a replica of which three in a row do not end is replaced."""


class Ingress:
    """The gateway as a deployment. ``declared``: the deployment, as its file has it."""

    def __init__(self, declared: Mapping[str, Any], replicas: DeploymentHandle) -> None:
        log_to_stderr()
        deployment = read_deployment(declared, "deployment")
        self._gateway = Gateway(
            KeyRing(deployment),
            deployment.http.max_body_bytes,
            Tickets(cluster_secret()),
            ServeReplicas(replicas),
            # Up to half a batch of the same beginning is read where it was read before.
            Crowds(max(1, deployment.engine.max_sequences // 2)),
        )

    async def __call__(self, request: Request) -> Response:  # noqa: ARG002
        """Serve hands every request over."""
        return _Forwarded(self._gateway)


class _Forwarded(Response):
    """The response that Serve asks for; the gateway makes it."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__()
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._gateway(scope, receive, send)


def build(args: Mapping[str, Any]) -> serve.Application:
    """What a Serve config file declares: ``config``, the file of the deployment, and fields of ``ReplicaSettings``.

    Raises:
        UserError: one line that names what is wrong.
    """
    given = dict(args)
    config = given.pop("config", None)
    if not isinstance(config, str):
        raise UserError("args: config must be the file of a deployment")
    deployment = read_deployment(read_config_file(Path(config)), config)
    if not (deployment.http.allow_anonymous or KeyRing(deployment).required):
        raise UserError(
            f"{config}: Serve's http_options say who can reach it, not http.host: give http.api_key_file, or "
            "http.allow_anonymous to let everybody in"
        )
    return application(deployment, read_settings(given, "args"))


def application(deployment: Deployment, settings: ReplicaSettings) -> serve.Application:
    """The deployment as an application of Serve.

    Raises:
        UserError: its file of keys cannot be used, or it declares what replicas do not have.
    """
    check_carried(deployment)
    KeyRing(deployment)  # so that what is wrong with it is told here and not by replicas that die
    declared = deployment.model_dump(mode="json")
    admitted = deployment.engine.max_sequences + deployment.http.max_queue
    drain = deployment.http.drain_seconds + MORE_SECONDS
    common: dict[str, Any] = {
        "health_check_period_s": HEALTH_SECONDS,
        "health_check_timeout_s": STILL_SECONDS,
        "logging_config": {"enable_access_log": False},  # each request has a line of ours
    }
    registry = serve.deployment(Registry).options(
        name="registry", max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0}, **common
    )
    replica = serve.deployment(Replica).options(
        name=REPLICA,
        **_number(settings, deployment.engine.max_sequences),
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        # Twice what the app lets in, so that it is the app that refuses, and room for looks at what runs.
        max_ongoing_requests=2 * admitted + 100,
        max_queued_requests=2 * admitted + 100,
        graceful_shutdown_timeout_s=drain,
        graceful_shutdown_wait_loop_s=0.5,
        max_constructor_retry_count=3,
        max_surge_percent=settings.surge_percent,
        request_router_config=RequestRouterConfig(
            request_router_class="server.replicas.router.AffinityRouter",
            request_router_kwargs={
                "full": deployment.engine.max_sequences,
                "more": slack(deployment.engine.max_sequences, settings.gateways),
                "gateways": settings.gateways,
            },
        ),
        **common,
    )
    gateway = serve.deployment(Ingress).options(
        name="gateway",
        num_replicas=settings.gateways,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=100_000,
        graceful_shutdown_timeout_s=drain + GATEWAY_SECONDS,
        graceful_shutdown_wait_loop_s=0.5,
        max_surge_percent=100,
        **common,
    )
    return gateway.bind(declared, replica.bind(declared, registry.bind()))


def _number(settings: ReplicaSettings, batch: int) -> dict[str, Any]:
    if settings.max_replicas is None:
        return {"num_replicas": settings.replicas}
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=settings.replicas,
            initial_replicas=settings.replicas,
            max_replicas=settings.max_replicas,
            target_ongoing_requests=settings.target_ongoing or batch,
            upscale_delay_s=settings.upscale_seconds,
            downscale_delay_s=settings.downscale_seconds,
        )
    }
