"""How a gateway reaches replicas: over Serve's handle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.types import Message

from server.replicas.errand import Errand
from server.replicas.exchange import Head
from server.replicas.gateway import Full, Lost

ALL_SECONDS = 5.0
"""How long the answers of all replicas are waited for."""


class ServeReplicas:
    """``gateway.Replicas`` behind ``handle``."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._streaming = handle.options(method_name="stream", stream=True)

    async def stream(self, errand: Errand, head: Head, body: bytes) -> AsyncGenerator[list[Message]]:
        """See ``gateway.Replicas``."""
        response = self._streaming.remote(errand, head, body)
        is_over = False
        try:
            async for batch in response:
                yield batch
            is_over = True
        except BackPressureError as error:
            raise Full from error
        except (RayError, RayServeException) as error:
            is_over = True
            raise Lost(_said(error)) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # our own client left
            is_over = True
            raise Lost("the replica cancelled it") from error
        finally:
            if not is_over:
                response.cancel()

    async def all(self, head: Head) -> Mapping[str, Sequence[Message]]:
        """See ``gateway.Replicas``."""
        try:
            answers = await self._handle.broadcast("answer", head, b"").results_async(
                timeout_s=ALL_SECONDS, return_exceptions=True
            )
        except (RayError, RayServeException, TimeoutError) as error:
            raise Lost(_said(error)) from error
        whole = [answer for answer in answers if not isinstance(answer, BaseException)]
        if not whole:
            raise Lost("no replica answers")
        return dict(whole)


def _said(error: BaseException) -> str:
    """The first line of what Ray says, for the log."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
