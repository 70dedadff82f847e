"""Changes go one at a time, and the latest wins."""

import asyncio
from collections.abc import Mapping

from server.terminal.service import Refused, ServiceError, Unreachable
from server.terminal.steering import Change, Steering


class Bench:
    """A steering whose answers the test gives."""

    def __init__(self) -> None:
        self.sent: list[Mapping[str, float]] = []
        self.pending: list[asyncio.Future[int]] = []
        self.made: list[Change] = []
        self.failed: list[ServiceError] = []
        self.steering = Steering(
            self._send, {"helpful": 0.0}, made=self.made.append, failed=self.failed.append
        )

    def _send(self, values: Mapping[str, float]) -> "asyncio.Future[int]":
        self.sent.append(values)
        self.pending.append(asyncio.get_running_loop().create_future())
        return self.pending[-1]

    async def want(self, *values: float) -> None:
        for value in values:
            self.steering.want({"helpful": value})
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


def test_what_is_wanted_meanwhile_is_sent_once_at_the_end() -> None:
    async def scene() -> Bench:
        bench = Bench()
        running = asyncio.create_task(bench.steering.run())
        await bench.want(1.0)
        await bench.want(2.0, 3.0, 4.0)
        assert bench.sent == [{"helpful": 1.0}]
        bench.pending[0].set_result(5)
        await bench.settle()
        bench.pending[1].set_result(8)
        await bench.settle()
        running.cancel()
        return bench

    bench = asyncio.run(scene())
    assert bench.sent == [{"helpful": 1.0}, {"helpful": 4.0}]
    assert bench.made == [
        Change(5, {"helpful": 0.0}, {"helpful": 1.0}),
        Change(8, {"helpful": 1.0}, {"helpful": 4.0}),
    ]
    assert bench.steering.settled


def test_what_holds_already_is_not_sent() -> None:
    async def scene() -> Bench:
        bench = Bench()
        running = asyncio.create_task(bench.steering.run())
        await bench.want(0.0)
        await bench.want(1.0, 0.0)
        running.cancel()
        return bench

    assert asyncio.run(scene()).sent == []


def test_a_refused_change_is_told_once_and_later_ones_are_sent() -> None:
    async def scene() -> Bench:
        bench = Bench()
        running = asyncio.create_task(bench.steering.run())
        await bench.want(1.0)
        bench.pending[0].set_exception(Refused("no", status=400, param="preferences.helpful"))
        await bench.settle()
        assert bench.steering.held == {"helpful": 0.0}
        assert bench.steering.settled
        await bench.want(2.0)
        bench.pending[1].set_exception(Unreachable("gone"))
        await bench.settle()
        running.cancel()
        return bench

    bench = asyncio.run(scene())
    assert len(bench.sent) == 2
    assert [str(error) for error in bench.failed] == ["no (preferences.helpful)", "gone"]


def test_an_answer_that_is_over_ends_it() -> None:
    async def scene() -> Bench:
        bench = Bench()
        running = asyncio.create_task(bench.steering.run())
        await bench.want(1.0)
        bench.pending[0].set_exception(Refused("no such request", status=404))
        await running
        return bench

    assert asyncio.run(scene()).failed == []
