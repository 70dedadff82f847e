"""A replica asks before a bounded key gets more, goes on alone when nobody answers, and tells what was given back."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pytest

from server.api.places import Claim
from server.errors import ConcurrencyLimit
from server.replicas.leases import Leases
from server.replicas.quota import ALONE_SECONDS, SharedQuota


class LocalLedger:
    """Leases in this process; ``away``: it does not answer; ``fails``: it answers with an error."""

    def __init__(self) -> None:
        self.leases = Leases()
        self.away = self.fails = False
        self.asked = 0

    async def _reach(self) -> None:
        if self.fails:
            raise RuntimeError("died")
        if self.away:
            await asyncio.Event().wait()

    async def ask(self, replica: str, number: int, owner: str, held: int, most: int) -> tuple[bool, int]:
        self.asked += 1
        await self._reach()
        return self.leases.ask(replica, number, owner, held, most), self.leases.replicas

    async def report(self, replica: str, number: int, held: Mapping[str, int]) -> int:
        await self._reach()
        self.leases.report(replica, number, held)
        return self.leases.replicas


def claim(most: int | None = 4, owner: str = "key") -> Claim:
    return Claim(owner, 1, 0.0, most)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.replicas.quota.ASK_SECONDS", 0.02)


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_two_replicas_keep_one_bound() -> None:
    async def scenario() -> None:
        ledger = LocalLedger()
        one, two = SharedQuota("a", ledger), SharedQuota("b", ledger)
        await one.grant(claim(), 3)
        await two.grant(claim(), 1)
        with pytest.raises(ConcurrencyLimit) as refusal:
            await two.grant(claim(), 2)
        assert (refusal.value.status, refusal.value.retry_after) == (429, 1)

    play(scenario)


def test_keys_without_a_bound_are_asked_about_nowhere() -> None:
    async def scenario() -> None:
        ledger = LocalLedger()
        quota = SharedQuota("a", ledger)
        await quota.grant(claim(most=None), 1000)
        quota.left("key", 999)
        assert ledger.asked == 0

    play(scenario)


def test_what_is_given_back_is_told_at_once() -> None:
    async def scenario() -> None:
        ledger = LocalLedger()
        one, two = SharedQuota("a", ledger), SharedQuota("b", ledger)
        keeping = asyncio.create_task(one.keep())
        await one.grant(claim(), 4)
        one.left("key", 3)
        await asyncio.sleep(0.01)
        await two.grant(claim(), 1)
        one.left("key", 0)
        await asyncio.sleep(0.01)
        await two.grant(claim(), 4)
        keeping.cancel()

    play(scenario)


@pytest.mark.parametrize("fault", ["away", "fails"])
def test_a_replica_without_an_answer_lets_a_key_have_its_share(fault: str) -> None:
    async def scenario() -> None:
        ledger, now = LocalLedger(), 0.0
        quota = SharedQuota("a", ledger, lambda: now)
        await quota.grant(claim(), 1)
        await SharedQuota("b", ledger).grant(claim(), 1)
        await quota.grant(claim(), 2)  # it has heard that there are two
        setattr(ledger, fault, True)
        await quota.grant(claim(), 2)
        with pytest.raises(ConcurrencyLimit):
            await quota.grant(claim(), 3)
        await quota.grant(claim(most=1), 1)  # one at least
        asked = ledger.asked
        setattr(ledger, fault, False)
        await quota.grant(claim(), 2)
        assert ledger.asked == asked, "no request waits once more for what did not answer the last one"
        now = ALONE_SECONDS
        await quota.grant(claim(), 3)
        assert ledger.asked == asked + 1

    play(scenario)


def test_a_ledger_that_forgot_everything_is_told_again() -> None:
    async def scenario() -> None:
        ledger = LocalLedger()
        quota = SharedQuota("a", ledger)
        await quota.grant(claim(), 4)
        ledger.leases = Leases()
        keeping = asyncio.create_task(quota.keep())
        await asyncio.sleep(0.01)
        with pytest.raises(ConcurrencyLimit):
            await SharedQuota("b", ledger).grant(claim(), 1)
        keeping.cancel()

    play(scenario)
