"""A replica's part in the bounds of API keys: it asks before a bounded key gets more, and tells what keys gave back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from server.api.places import RETRY_AFTER, Claim
from server.errors import ConcurrencyLimit

ASK_SECONDS = 0.5
"""How long an answer is waited for; then the replica decides alone, and for ``ALONE_SECONDS`` more."""

ALONE_SECONDS = 1.0
REPORT_SECONDS = 1.0

LOG = logging.getLogger("genarm")


class Ledger(Protocol):
    """Where all replicas' leases are; every call may fail with anything."""

    async def ask(self, replica: str, number: int, owner: str, held: int, most: int) -> tuple[bool, int]:
        """As ``Leases.ask``; and how many replicas there are."""

    async def report(self, replica: str, number: int, held: Mapping[str, int]) -> int:
        """As ``Leases.report``; how many replicas there are."""


class SharedQuota:
    """Keeps the bound of each key over all replicas; lives on one event loop.

    As long as the ledger answers, a key never has more places than it may. While it does not, each replica lets a key have its
    share of them, and one at least: ``max(1, most // replicas)``.

    Args:
        replica: the name of this one.
        ledger: where it asks.
        clock: seconds.
    """

    def __init__(self, replica: str, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        self._replica = replica
        self._ledger = ledger
        self._clock = clock
        self._held: dict[str, int] = {}  # of bounded keys, by owner; what is being asked for counts
        self._number = 0
        self._replicas = 1
        self._alone_until = float("-inf")
        self._news = asyncio.Event()

    async def grant(self, claim: Claim, held: int) -> None:
        """See ``server.api.quota.Quota``."""
        most = claim.most
        if most is None:
            return
        self._held[claim.owner] = held
        granted = await self._ask(claim.owner, held, most)
        if granted is None:
            granted = held <= max(1, most // self._replicas)
        if not granted:
            raise ConcurrencyLimit(
                f"This key may have {most} answers under way and has them on other replicas; try again later.",
                retry_after=RETRY_AFTER,
            )

    def left(self, owner: str, held: int) -> None:
        """See ``server.api.quota.Quota``."""
        if owner not in self._held:
            return
        if held:
            self._held[owner] = held
        else:
            del self._held[owner]
        self._news.set()

    async def keep(self) -> None:
        """Tells the ledger what is held, at once when something was given back and else every second; runs until cancelled."""
        while True:
            self._news.clear()
            self._number += 1
            try:
                async with asyncio.timeout(ASK_SECONDS):
                    self._replicas = await self._ledger.report(self._replica, self._number, dict(self._held))
            except (
                Exception
            ) as error:  # whatever a call to another process may fail with; the next one may not
                LOG.debug("the ledger does not answer: %s", error)
            try:
                async with asyncio.timeout(REPORT_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _ask(self, owner: str, held: int, most: int) -> bool | None:
        """The ledger's answer; None where there is none."""
        if self._clock() < self._alone_until:
            return None
        self._number += 1
        try:
            async with asyncio.timeout(ASK_SECONDS):
                granted, self._replicas = await self._ledger.ask(
                    self._replica, self._number, owner, held, most
                )
        except Exception as error:
            LOG.warning("the ledger of keys does not answer (%s); this replica decides alone", error)
            self._alone_until = self._clock() + ALONE_SECONDS
            return None
        return granted
