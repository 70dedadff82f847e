"""What takes too long is ended, once, with the error that says which bound it met."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from server.api.deadlines import Deadlines
from server.errors import ApiError, QueueTimeout, TimedOut


def generation(arrived: float, begun: bool = False) -> Any:
    return SimpleNamespace(ticket=SimpleNamespace(id="one", arrived=arrived), begun=begun)


async def has_begun(one: Any) -> bool:
    return bool(one.begun)


def over(queue: float | None, total: float | None, one: Any, *, forgotten: bool = False) -> list[ApiError]:
    """What ``one`` is ended with in the next fifth of a second."""
    told: list[ApiError] = []

    async def wait() -> None:
        deadlines = Deadlines(queue, total, has_begun, lambda _, error: told.append(error))
        deadlines.watch(one)
        if forgotten:
            deadlines.forget(one)
        await asyncio.sleep(0.2)
        deadlines.forget(one)

    asyncio.run(wait())
    return told


def test_who_waits_too_long_for_a_turn_may_try_again() -> None:
    (error,) = over(0.05, None, generation(time.monotonic()))
    assert isinstance(error, QueueTimeout)
    assert (error.status, error.code, error.retry_after) == (503, "queue_timeout", 5)
    assert "0.05 s" in error.message


def test_an_answer_that_has_begun_no_longer_waits() -> None:
    assert over(0.05, None, generation(time.monotonic(), begun=True)) == []


def test_an_answer_that_takes_too_long_is_ended_though_it_has_begun() -> None:
    (error,) = over(None, 0.05, generation(time.monotonic(), begun=True))
    assert isinstance(error, TimedOut)
    assert (error.status, error.code) == (504, "timeout")


def test_the_time_before_it_was_under_way_counts() -> None:
    assert len(over(60.0, 60.0, generation(time.monotonic() - 61))) == 2
    assert over(60.0, 60.0, generation(time.monotonic() - 59)) == []


def test_without_bounds_or_when_it_is_over_nothing_is_told() -> None:
    assert over(None, None, generation(time.monotonic() - 100)) == []
    assert over(0.05, 0.05, generation(time.monotonic()), forgotten=True) == []


@pytest.mark.parametrize(
    ("queue", "total", "expected"),
    [(0.05, None, QueueTimeout), (None, 0.05, TimedOut), (0.05, 5.0, QueueTimeout), (5.0, 0.05, TimedOut)],
)
def test_preparing_is_bounded_by_the_nearest_of_both(
    queue: float | None, total: float | None, expected: type[ApiError]
) -> None:
    async def prepare() -> None:
        async with Deadlines(queue, total, has_begun, lambda *_: None).preparing(time.monotonic()):
            await asyncio.sleep(10)

    with pytest.raises(expected):
        asyncio.run(prepare())


def test_what_fails_by_itself_while_it_is_prepared_keeps_its_error() -> None:
    async def prepare() -> None:
        async with Deadlines(5.0, None, has_begun, lambda *_: None).preparing(time.monotonic()):
            raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        asyncio.run(prepare())
