"""A steady batch is timed at the context it says, and nothing but decoding is timed."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from server.bench.cost import Cost, Steps, in_turn
from server.bench.steady import Steady, prompt_of


class FakeEngine:
    """Every step takes ``pause`` seconds and draws ``each`` tokens for every response."""

    def __init__(self, pause: float = 0.0, each: int = 1) -> None:
        cache = SimpleNamespace(shape=SimpleNamespace(device=torch.device("cpu")))
        self.members = {"base": SimpleNamespace(vocab_size=50, cache=cache)}
        self.max_context = {"base": 1000}
        self.pause, self.each = pause, each
        self.requests: list[Any] = []
        self.steps = 0
        self.aborted: list[str] = []

    def add(self, *requests: Any) -> None:
        self.requests += requests

    def step(self) -> list[Any]:
        time.sleep(self.pause)
        self.steps += 1
        return [request for request in self.requests for _ in range(self.each)]

    def abort(self, name: str) -> None:
        self.aborted.append(name)


def steady(engine: FakeEngine, **fields: Any) -> Steady:
    chosen: dict[str, Any] = {"batch": 3, "context": 100, "steps": 8, "mix": {"base": 1.0}} | fields
    return Steady(engine, **chosen)  # type: ignore[arg-type]


def test_the_last_timed_step_has_the_context_that_was_asked_for() -> None:
    engine = FakeEngine()
    work = steady(engine)
    work.begin()
    work.run(8)
    assert len(engine.requests) == 3
    for request in engine.requests:
        assert len(request.prompts["base"]) + engine.steps == 100
        assert request.sampling.max_tokens > engine.steps
    work.end()
    assert engine.aborted == [request.id for request in engine.requests]


def test_a_context_without_room_for_the_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="no room for 8 steps"):
        steady(FakeEngine(), context=10).begin()


def test_slow_steps_are_seen() -> None:
    work = steady(FakeEngine(pause=0.02))
    work.begin()
    seconds = work.run(4)
    assert len(seconds) == 4
    assert min(seconds) >= 0.02


def test_a_step_that_draws_two_tokens_for_each_counts_half() -> None:
    work = steady(FakeEngine(pause=0.04, each=2))
    work.begin()
    assert all(0.02 <= second < 0.04 for second in work.run(3))


def test_shorter_prompts_begin_longer_ones() -> None:
    engine: Any = FakeEngine()
    assert prompt_of(10, engine) == prompt_of(40, engine)[:10]
    assert len(set(prompt_of(40, engine))) > 10


def test_two_sides_take_turns_and_the_slower_one_is_seen() -> None:
    slow, fast = FakeEngine(pause=0.02), FakeEngine(pause=0.005)
    sides = Steps("slow", steady(slow, steps=12)), Steps("fast", steady(fast, steps=12))
    ticks: list[int] = []
    ours, peers = in_turn(*sides, runs=3, tick=lambda: ticks.append(1))
    assert len(ours) == len(peers) == 3
    assert len(ticks) == 4
    assert min(ours) >= 0.02 > max(peers)
    assert slow.steps == fast.steps == 12 + 2


def test_a_cost_is_a_ratio_of_medians_beside_the_computed_one() -> None:
    cost = Cost("c", "ours", "peer", 1.5, 1.1, (3.0, 9.0, 3.3), (2.0, 2.0, 0.1))
    assert cost.ratio == 1.65
    assert cost.reached
    assert not Cost("c", "ours", "peer", 1.5, 1.1, (3.4,), (2.0,)).reached
    assert Cost("c", "ours", "peer", 1.0, None, (9.0,), (1.0,)).reached
    assert cost.record()["measured_over_expected"] == pytest.approx(1.1)
    assert cost.row().value == "1.65 = 1.10 x 1.50"
