"""How a gateway reaches replicas: over Serve's handle."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence

from grpc import RpcError
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.types import Message

from server.replicas.errand import Errand, Gone
from server.replicas.exchange import Head
from server.replicas.gateway import Full, Lost

ALL_SECONDS = 5.0
"""How long the answers of all replicas are waited for; those that have not come by then are left out."""

_FAILURES = (RayError, RayServeException, RpcError)
"""What became of a call, other than that what it called raised."""


class ServeReplicas:
    """``gateway.Replicas`` behind ``handle``."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        # A token takes less CPU over gRPC than over Ray's object store, but gRPC does not reach a replica that drains.
        self._streaming = handle.options(method_name="stream", stream=True, _by_reference=False)
        self._named = handle.options(method_name="stream", stream=True, _by_reference=True)

    async def stream(self, errand: Errand, head: Head, body: bytes) -> AsyncGenerator[list[Message]]:
        """See ``gateway.Replicas``."""
        handle = self._streaming if errand.replica is None else self._named
        response = handle.remote(errand, head, body)
        is_over = False
        try:
            async for batch in response:
                if isinstance(batch, str):
                    raise Gone(batch)
                yield batch
            is_over = True
        except BackPressureError as error:
            raise Full from error
        except _FAILURES as error:
            raise Lost(_said(error)) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # our own client left
            raise Lost("the replica cancelled it") from error
        finally:
            if not is_over:
                # A replica that cannot be reached for a moment may still be at work. What has failed says so once more.
                with contextlib.suppress(*_FAILURES, Gone):
                    response.cancel()

    async def all(self, head: Head) -> Mapping[str, Sequence[Message]]:
        """See ``gateway.Replicas``."""
        try:
            async with asyncio.timeout(ALL_SECONDS):
                # Serve's own way to wait for the answers gives none where a single one is missing.
                asked = await self._handle.broadcast("answer", head, b"")._fetch_replica_results_async()
        except (RayError, RayServeException, TimeoutError) as error:
            raise Lost(_said(error)) from error
        answers = {asyncio.ensure_future(one.get_async()): one for one in asked}
        try:
            done, _ = await asyncio.wait(answers, timeout=ALL_SECONDS)
        finally:
            for task, answer in answers.items():
                if not task.done():
                    task.cancel()
                    answer.cancel()
        whole = [task.result() for task in done if not task.cancelled() and task.exception() is None]
        if not whole:
            raise Lost("no replica answers")
        return dict(whole)


def _said(error: BaseException) -> str:
    """The first line of what Ray says, for the log."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
