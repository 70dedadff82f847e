"""Changes of a running answer: one at a time, the latest wins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from server.terminal.service import Refused, ServiceError

Values = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Change:
    """Weights that hold from token ``at_token`` of the answer on."""

    at_token: int
    before: Values
    after: Values


class Steering:
    """Brings the weights of one answer to where the keys want them.

    Keys are faster than a network: while a change is under way, only what is wanted at its end matters. ``made`` is
    told of each change that the server has made, ``failed`` of each error; a change that the server refuses is not
    tried again.
    """

    def __init__(
        self,
        send: Callable[[Values], Awaitable[int]],
        held: Values,
        *,
        made: Callable[[Change], None],
        failed: Callable[[ServiceError], None],
    ) -> None:
        self.held = held
        self._wanted = held
        self._send = send
        self._made = made
        self._failed = failed
        self._asked = asyncio.Event()

    @property
    def settled(self) -> bool:
        """Whether what is wanted holds."""
        return self._wanted == self.held

    def want(self, values: Values) -> None:
        """From as soon as possible on, ``values``."""
        self._wanted = values
        self._asked.set()

    async def run(self) -> None:
        """Sends what is wanted, until the answer is over or this is cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            while not self.settled:
                wanted, before = self._wanted, self.held
                try:
                    at_token = await self._send(wanted)
                except ServiceError as error:
                    if isinstance(error, Refused) and error.status == 404:
                        return  # it ended meanwhile
                    self._wanted = self.held
                    self._failed(error)
                    continue
                self.held = wanted
                self._made(Change(at_token, before, wanted))
