"""One replica: the whole app with its models, which Ray Serve calls instead of listening on a port."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle, DeploymentResponse
from starlette.types import Message

from arm_models.errors import UserError
from server.api.serving import Phase, Serving
from server.app import create_app
from server.config import read_deployment
from server.garbage import set_aside
from server.log import log_to_stderr
from server.products import bound_kept_products
from server.replicas.errand import Errand
from server.replicas.exchange import Head, exchange
from server.replicas.quota import SharedQuota
from server.replicas.secret import cluster_secret
from server.replicas.ticket import Tickets

LOG = logging.getLogger("genarm")

Answer = tuple[str, list[Message]]
"""A replica's name and its whole answer."""


class Replica:
    """A deployment of Serve; lives on the event loop that Serve runs it on. ``declared``: the deployment, as its file has it.

    It is there when its models are loaded. Whether it gets requests is Serve's to say, so it does not drain by itself: Serve ends
    it when those it has are over.
    """

    async def __init__(self, declared: Mapping[str, Any], registry: DeploymentHandle) -> None:  # type: ignore[misc]
        bound_kept_products()
        log_to_stderr()
        deployment = read_deployment(declared, "deployment")
        self.name: str = serve.get_replica_context().replica_id.unique_id
        tickets = Tickets(cluster_secret())
        quota = SharedQuota(self.name, _Registry(registry))
        loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._app = create_app(
            deployment,
            on_ready=partial(_settle, loaded),
            on_dead=partial(_settle, loaded),
            new_id=partial(tickets.new, replica=self.name),
            quota=quota,
            is_fixed=True,
        )
        self._serving: Serving = self._app.state.serving
        self._life = self._app.router.lifespan_context(self._app)
        await self._life.__aenter__()
        await loaded
        self._keeping = asyncio.create_task(quota.keep())
        set_aside()
        LOG.info("replica %s: ready (model %s)", self.name, deployment.model)

    async def check_health(self) -> None:
        """Serve puts another replica in the place of one that raises here."""
        if self._serving.phase is Phase.DEAD:
            raise RuntimeError("the engine is dead")

    async def drain(self, seconds: float) -> None:
        """Takes no new requests; returns when those it has are over, which they are after ``seconds``."""
        await self._serving.drain(seconds)

    async def stream(self, errand: Errand, head: Head, body: bytes) -> AsyncGenerator[list[Message] | str]:  # noqa: ARG002
        """The app's answer to one request as it comes; the errand was for the router. Of an engine that died before it came, only
        the replica's name: it is for another one.
        """
        if self._serving.phase is Phase.DEAD:
            yield self.name
            return
        async for batch in exchange(self._app, head, body):
            yield batch

    async def answer(self, head: Head, body: bytes) -> Answer:
        """The app's answer to one request when it is whole."""
        return self.name, [message async for batch in exchange(self._app, head, body) for message in batch]

    def __del__(self) -> None:
        """Serve calls this when the replica has drained; Python does once more."""
        keeping = self.__dict__.pop("_keeping", None)
        if keeping is not None:
            keeping.cancel()
            self._serving.end()


def _settle(loaded: asyncio.Future[None], error: BaseException | None = None) -> None:
    """The models are loaded, or ``error`` says why that cannot be. An engine that dies later is found by ``check_health``."""
    if loaded.done():
        return
    if error is None:
        loaded.set_result(None)
    else:
        # What the user did wrong goes to Serve's status in one line, and a UserError may not survive the way there.
        loaded.set_exception(RuntimeError(str(error)) if isinstance(error, UserError) else error)


class _Registry:
    """``Ledger`` over a handle."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def ask(self, replica: str, number: int, owner: str, held: int, most: int) -> tuple[bool, int]:
        answer: tuple[bool, int] = await _unless_left(
            self._handle.ask.remote(replica, number, owner, held, most)
        )
        return answer

    async def report(self, replica: str, number: int, held: Mapping[str, int]) -> int:
        replicas: int = await _unless_left(self._handle.report.remote(replica, number, held))
        return replicas


async def _unless_left(response: DeploymentResponse) -> Any:
    """The answer to a call, which is taken back when nobody waits for it any more: it would reach the next registry."""
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise
