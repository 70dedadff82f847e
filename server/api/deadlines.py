"""How long a request may wait for its turn, and how long it may take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from server.api.generation import Generation
from server.errors import ApiError, QueueTimeout, TimedOut


class Deadlines:
    """Ends requests that take too long; lives on the event loop.

    Args:
        queue: seconds from a request's arrival until the engine begins with it; None: as long as it takes.
        total: seconds from its arrival to its end.
        begun: whether the engine has begun with a request.
        over: told, once, of a request that is to end, and why.
    """

    def __init__(
        self,
        queue: float | None,
        total: float | None,
        begun: Callable[[Generation], Awaitable[bool]],
        over: Callable[[Generation, ApiError], None],
    ) -> None:
        self._queue = queue
        self._total = total
        self._begun = begun
        self._over = over
        self._asking: set[asyncio.Task[None]] = set()
        self._timers: dict[str, list[asyncio.TimerHandle]] = {}

    @asynccontextmanager
    async def preparing(self, arrived: float) -> AsyncIterator[None]:
        """Bounds what comes before a request is under way; ``arrived``: its ``time.monotonic()``.

        Raises:
            QueueTimeout, TimedOut: it took too long.
        """
        bounds = [
            (seconds, error)
            for seconds, error in ((self._queue, _waited), (self._total, _took))
            if seconds is not None
        ]
        if not bounds:
            yield
            return
        seconds, error = min(bounds, key=lambda bound: bound[0])
        limit = asyncio.timeout(max(0.0, _left(arrived, seconds)))
        try:
            async with limit:
                yield
        except TimeoutError as late:
            if limit.expired():
                raise error(seconds) from late
            raise

    def watch(self, generation: Generation) -> None:
        """A request is under way."""
        loop, arrived = asyncio.get_running_loop(), generation.ticket.arrived
        timers = self._timers.setdefault(generation.ticket.id, [])
        if self._queue is not None:
            timers.append(
                loop.call_later(_left(arrived, self._queue), self._is_late, generation, self._queue)
            )
        if self._total is not None:
            seconds = self._total
            timers.append(
                loop.call_later(_left(arrived, seconds), lambda: self._over(generation, _took(seconds)))
            )

    def forget(self, generation: Generation) -> None:
        """A request is over; an unknown one is no error."""
        for timer in self._timers.pop(generation.ticket.id, ()):
            timer.cancel()

    def _is_late(self, generation: Generation, seconds: float) -> None:
        asking = asyncio.get_running_loop().create_task(self._ask(generation, seconds))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)

    async def _ask(self, generation: Generation, seconds: float) -> None:
        """Ends a request that the engine has not begun with: a slow reading of its prompt is no waiting."""
        if not await self._begun(generation) and generation.ticket.id in self._timers:
            self._over(generation, _waited(seconds))


def _left(arrived: float, seconds: float) -> float:
    return arrived + seconds - time.monotonic()


def _waited(seconds: float) -> ApiError:
    return QueueTimeout(
        f"The request waited longer than {seconds:g} s for its turn; try again later.", retry_after=5
    )


def _took(seconds: float) -> ApiError:
    return TimedOut(f"The request took longer than {seconds:g} s.")
