"""What takes too long is told once; what ends, or is not begun, never."""

import time
from queue import SimpleQueue

from server.engine.sharding.watch import Watch


def test_what_does_not_end_in_time_is_told_once() -> None:
    told: SimpleQueue[float] = SimpleQueue()
    watch = Watch(0.3, lambda: told.put(time.monotonic()))
    watch.start()
    began = time.monotonic()
    with watch.over():
        assert 0.25 < told.get(timeout=5) - began < 2
        time.sleep(0.5)
    assert told.empty()


def test_many_short_things_and_none_at_all_are_not_told() -> None:
    told: SimpleQueue[None] = SimpleQueue()
    watch = Watch(0.6, lambda: told.put(None))
    watch.start()
    time.sleep(0.8)
    for _ in range(12):
        with watch.over():
            time.sleep(0.06)
    assert told.empty()
    watch.stop()
    with watch.over():
        time.sleep(0.8)
    assert told.empty()
