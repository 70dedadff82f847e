"""Whose request the event loop begins next."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque


class Turns:
    """Requests begin one at a time, for each owner in the order in which they came, and one for each owner in turn.

    To begin one takes milliseconds of the event loop: its body is read, checked and planned. The loop by itself goes through all
    that have come before it hears of anything else; here others' requests, and the streams under way, are in between. Lives on
    the event loop.
    """

    def __init__(self) -> None:
        # Owners that wait, whose turn it is first.
        self._lanes: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._is_serving = False

    async def wait(self, owner: str) -> None:
        """Returns when it is the turn of this request of ``owner``; what it does until it waits for something is its turn."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._lanes.setdefault(owner, deque()).append(turn)
        if not self._is_serving:
            self._is_serving = True
            loop.call_soon(self._serve, loop)
        await turn

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Gives one request its turn; called once in every round of the loop as long as any waits."""
        while self._lanes:
            owner, lane = next(iter(self._lanes.items()))
            turn = lane.popleft()
            if lane:
                self._lanes.move_to_end(owner)
            else:
                del self._lanes[owner]
            if not turn.done():  # its client has not left
                turn.set_result(None)
                loop.call_soon(self._serve, loop)
                return
        self._is_serving = False
