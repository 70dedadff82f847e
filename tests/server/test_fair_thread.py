"""One thread, several owners: nobody's work waits for all of another's."""

import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from server import fair_thread
from server.fair_thread import FairThread


def held(thread: FairThread) -> threading.Event:
    """Keeps the thread busy until the event is set."""
    gate, begun = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert gate.wait(20)

    thread.submit(wait, "gate")
    assert begun.wait(20)
    return gate


def test_owners_are_served_in_turn_and_each_in_its_own_order() -> None:
    thread, done = FairThread("test"), list[str]()
    gate = held(thread)
    work = [("a", f"a{number}") for number in range(4)] + [("b", "b0"), ("c", "c0"), ("b", "b1")]
    futures = [thread.submit(lambda name=name: done.append(name), owner) for owner, name in work]  # type: ignore[misc]
    assert [thread.waiting(owner) for owner in "abcd"] == [4, 2, 1, 0]
    gate.set()
    for future in futures:
        future.result(20)
    assert done == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]
    assert thread.waiting("a") == 0
    thread.stop()


def test_what_work_raises_is_told_and_the_next_is_done() -> None:
    thread = FairThread("test")
    with pytest.raises(ZeroDivisionError):
        thread.submit(lambda: 1 / 0).result(20)
    assert thread.submit(lambda: threading.current_thread().name).result(20).startswith("test")
    thread.stop()


def test_cancelled_work_is_not_done_and_a_stopped_thread_drops_the_rest() -> None:
    thread, done = FairThread("test"), list[int]()
    gate = held(thread)
    futures: list[Future[None]] = [thread.submit(lambda n=n: done.append(n)) for n in range(3)]  # type: ignore[misc]
    assert futures[0].cancel()
    last = thread.submit(lambda: None, "other")
    thread.stop()
    gate.set()
    assert all(future.cancelled() for future in (*futures, last))
    assert done == []
    with pytest.raises(RuntimeError):
        thread.submit(lambda: None)


def test_it_rests_in_proportion_to_its_work() -> None:
    def work() -> float:
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass
        return time.monotonic()

    thread = FairThread("test", rest=3.0)
    ended, began = thread.submit(work), thread.submit(time.monotonic)
    assert began.result(20) - ended.result(20) >= 3 * 0.05
    thread.stop()


def test_no_rest_is_long_however_long_the_work_was(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    clock = SimpleNamespace(thread_time=iter((0.0, 4.0)).__next__, sleep=rests.append)
    monkeypatch.setattr(fair_thread, "time", clock)
    thread = FairThread("test", rest=3.0)
    thread.submit(lambda: None).result(20)
    thread.stop()
    thread._executor.shutdown(wait=True)
    assert rests == [fair_thread.MOST_REST]
