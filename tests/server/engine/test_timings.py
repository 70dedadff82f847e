"""Times of steps: by a clock that the test turns, and by events of a GPU that happen when the test says so."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from server.engine import Engine, SamplingParams, SequenceRequest, timings
from server.engine.chunk import Chunk
from server.engine.histogram import Histogram
from server.engine.timings import Timings

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Event:
    """An event of a GPU whose work takes as long as the clock is turned between its recordings; ``done`` once that is over."""

    clock: Clock
    done = False

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: object) -> None:
        assert stream == "the stream"
        self.at = self.clock.now

    def query(self) -> bool:
        return self.done

    def elapsed_time(self, other: "Event") -> float:
        assert other.done
        return 1000 * (other.at - self.at)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timings, "time", SimpleNamespace(perf_counter=made))
    return made


def chunks(**tokens: int) -> dict[str, list[Chunk]]:
    return {name: [Chunk("x", [0] * count, 0, False, 1)] for name, count in tokens.items()}


def test_a_histogram_counts_a_value_at_a_bound_below_it() -> None:
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 2, 3):
        histogram.observe(value)
    assert (histogram.now.counts, histogram.now.total, histogram.now.count) == ((2, 2, 1), 8, 5)


def test_members_of_one_forward_share_its_time_as_they_share_its_tokens(clock: Clock) -> None:
    timed = Timings("base")
    timed.begin_step()
    with timed.forward(chunks(base=3, kind=1), CPU):
        clock.now += 0.4
    with timed.forward(chunks(short=2), CPU):
        clock.now += 0.1
    clock.now += 0.1
    timed.end_step()
    now = timed.now
    assert {name: one.total for name, one in now.forward_seconds.items()} == pytest.approx(
        {"base": 0.3, "kind": 0.1, "short": 0.1}
    )
    assert now.step_seconds.total == pytest.approx(0.6)
    assert (now.step_tokens.total, now.step_tokens.count) == (3, 1)
    assert now.overhead == pytest.approx(2.0)


def test_mixing_does_not_count_what_scorers_do_in_between(clock: Clock) -> None:
    timed = Timings("base")
    timed.begin_step()
    with timed.mixing(CPU):
        clock.now += 0.25
        with timed.forward(chunks(score=5), CPU):
            clock.now += 4
        clock.now += 0.25
    with timed.forward(chunks(score=5), CPU):  # behind it
        clock.now += 1
    timed.end_step()
    assert timed.now.mix_seconds.total == pytest.approx(0.5)
    assert timed.now.forward_seconds["score"].total == pytest.approx(5)


def test_a_step_that_reads_nothing_and_one_that_breaks_off_are_none(clock: Clock) -> None:
    timed = Timings("base")
    timed.begin_step()
    clock.now += 5
    timed.end_step()
    timed.begin_step()
    with pytest.raises(MemoryError), timed.forward(chunks(base=9), CPU):
        raise MemoryError
    timed.begin_step()
    timed.end_step()
    now = timed.now
    assert (now.step_seconds.count, now.step_tokens.count, now.forward_seconds) == (0, 0, {})
    assert now.overhead is None


def test_the_overhead_is_of_the_last_steps_in_which_the_base_read(clock: Clock) -> None:
    timed = Timings("base")

    def step(seconds: float, **tokens: int) -> None:
        timed.begin_step()
        with timed.forward(chunks(**tokens), CPU):
            clock.now += 1
        clock.now += seconds - 1
        timed.end_step()

    for _ in range(600):
        step(9, base=1)
    assert timed.now.overhead == pytest.approx(9)
    for _ in range(600):
        step(2, base=1)
        step(50, kind=1)
    assert timed.now.overhead == pytest.approx(2, rel=0.02)


def test_a_gpu_is_timed_by_events_that_are_only_looked_at_once_they_have_happened(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    Event.clock, Event.done = clock, False
    cuda = SimpleNamespace(Event=Event, current_stream=lambda _: "the stream")
    monkeypatch.setattr(timings, "torch", SimpleNamespace(cuda=cuda))
    timed = Timings("base")
    timed.begin_step()
    with timed.forward(chunks(base=1), CUDA):
        clock.now += 0.5
    with timed.mixing(CUDA):
        clock.now += 0.125
        with timed.forward(chunks(score=1), CUDA):
            clock.now += 0.25
    timed.end_step()
    timed.begin_step()
    assert timed.now.forward_seconds == {}
    monkeypatch.setattr(Event, "done", True)
    timed.begin_step()
    now = timed.now
    assert now.forward_seconds["base"].total == pytest.approx(0.5)
    assert now.forward_seconds["score"].total == pytest.approx(0.25)
    assert now.mix_seconds.total == pytest.approx(0.125)


def test_an_engine_times_every_step_and_says_who_waited_how_long(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(max_sequences=1)
    mix = {"base": 1.0, "helpful": 0.5}
    prompts = dict.fromkeys(mix, (3, 4, 5))
    engine.add(*(SequenceRequest(name, prompts, mix, SamplingParams(4)) for name in ("first", "second")))
    told: dict[str, list[Any]] = {"first": [], "second": []}
    while engine.has_work:
        for output in engine.step():
            told[output.id].append(output.queued)
    for waits in told.values():
        assert waits[0] is not None
        assert waits[1:] == [None, None, None]
    assert told["second"][0] > told["first"][0] >= 0
    stats = engine.stats()
    times = stats.times
    assert times is not None
    assert times.step_seconds.count == times.step_tokens.count == stats.steps == 8
    assert times.step_tokens.total == stats.tokens["base"]
    assert {name: one.count for name, one in times.forward_seconds.items()} == {
        name: count for name, count in stats.forwards.items() if count
    }
    assert times.mix_seconds.count == 8
    parts = sum(one.total for one in times.forward_seconds.values()) + times.mix_seconds.total
    assert 0 < parts < times.step_seconds.total
    assert times.overhead is not None
    assert times.overhead > 1
