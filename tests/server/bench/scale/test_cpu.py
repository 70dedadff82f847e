"""CPU is told by thread; the busiest is the engine's."""

import os
import sys
import threading
import time

import pytest

from server.bench.scale.cpu import beside_the_engine, thread_seconds

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells it in /proc")


def test_a_thread_that_works_is_seen() -> None:
    before = thread_seconds(os.getpid())
    ended = threading.Event()

    def work() -> None:
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            pass
        ended.set()
        again.wait(10)

    again = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    ended.wait(10)
    after = thread_seconds(os.getpid())
    again.set()
    thread.join()
    assert 0.08 <= after[thread.native_id or 0] <= 0.5
    assert set(before) < set(after)


def test_beside_the_engine_is_all_but_the_busiest() -> None:
    before = {1: 5.0, 2: 1.0}
    assert beside_the_engine(before, {1: 9.0, 2: 1.5, 3: 0.25}) == pytest.approx(0.75)
    assert beside_the_engine(before, {1: 9.0, 2: 1.5, 3: 0.25}, threads=2) == pytest.approx(0.25)
    assert beside_the_engine({}, {}) == 0.0
