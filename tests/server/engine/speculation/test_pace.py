"""Guesses go as far as pays, not at all where it does not pay, and what finding out costs is bounded."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from server.engine.speculation.drafting import OVERALL_KEEP, PROMPT, REWARDS, Acceptance
from server.engine.speculation.pace import SHARE, AdaptivePace, Offer

MEMBERS = frozenset({"base", "helpful"})
Seconds = Callable[[int], float]


def flat(rows: int) -> float:
    """As long as for one: reading the weights is what takes time."""
    return 1.0 + 0.001 * rows


def steep(rows: int) -> float:
    """Twice as many rows, twice as long."""
    return float(rows)


@dataclass
class World:
    """A machine and models: guesses stand with chance ``odds`` of each kind; seconds by rows of the base, and of the rewards."""

    odds: dict[str, float]
    base: Seconds
    rewards: Seconds
    streams: int = 1
    most: int = 4
    now: float = 0.0
    tokens: int = 0
    lengths: list[int] = field(default_factory=list)
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def __post_init__(self) -> None:
        self.pace = AdaptivePace(lambda: self.now)
        self.seen = {kind: Acceptance(7, 10) for kind in self.odds}

    def run(self, steps: int) -> None:
        """So many steps in which nothing is done but to decode."""
        for _ in range(steps):
            self._step()

    def saved(self, tokens: int, seconds: float) -> float:
        """What these tokens took without guesses, over what they took."""
        alone = self.base(self.streams) + self.rewards(self.streams)
        return tokens / self.streams * alone / seconds

    def _step(self) -> None:
        self.pace.begin()
        plan = None
        if self.pace.considers(self.streams, MEMBERS, plain=True):
            most = [self.most] * self.streams
            plan = self.pace.choose([self._offer(kind, most) for kind in self.odds])
        lengths = plan.lengths if plan else (0,) * self.streams
        kind = plan.offer.kind if plan else ""
        if kind == REWARDS:
            for depth in range(max(lengths)):
                going = sum(length > depth for length in lengths)
                self.now += self.rewards(going)
                self.pace.guessed(going)
        rows = self.streams + sum(lengths)
        self.now += self.base(rows) + self.rewards(rows if kind == PROMPT else self.streams)
        drawn = self.streams + self._stand(kind, lengths)
        self.tokens += drawn
        self.lengths.append(max(lengths))
        self.pace.end(rows, drawn)

    def _offer(self, kind: str, most: Sequence[int]) -> Offer:
        return Offer(kind, most, [min(self.seen[kind].share, 0.98)] * self.streams)

    def _stand(self, kind: str, lengths: Sequence[int]) -> int:
        stood = tried = 0
        for length in lengths:
            for _ in range(length):
                tried += 1
                if self.rng.random() >= self.odds[kind]:
                    break
                stood += 1
        if tried:
            self.seen[kind].add(stood, tried, OVERALL_KEEP)
        return stood


def late(world: World, steps: int = 400) -> float:
    """How much faster it is than without guesses once it has settled."""
    world.run(400)
    tokens, now = world.tokens, world.now
    world.run(steps)
    return world.saved(world.tokens - tokens, world.now - now)


def test_guesses_that_stand_and_cost_little_are_made_as_far_as_allowed() -> None:
    world = World({REWARDS: 0.95}, flat, lambda rows: 0.05 * flat(rows), most=6)
    assert late(world) > 3.5
    assert world.lengths[-60:].count(6) > 50


def test_where_few_stand_fewer_are_made() -> None:
    world = World({REWARDS: 0.5}, flat, lambda rows: 0.15 * flat(rows), most=16)
    assert late(world) > 1.2
    made = world.lengths[-200:]
    assert 1 <= sum(made) / len(made) < 4


@pytest.mark.parametrize("streams", [1, 32])
@pytest.mark.parametrize(
    ("odds", "base", "rewards"),
    [
        (0.02, flat, flat),  # nothing stands
        (0.9, steep, steep),  # the base pays for every row
        (0.4, flat, lambda rows: 2 * flat(rows)),  # rewards are dearer than the base
    ],
)
def test_where_it_does_not_pay_it_costs_next_to_nothing(
    odds: float, base: Seconds, rewards: Seconds, streams: int
) -> None:
    world = World({REWARDS: odds, PROMPT: odds / 20}, base, rewards, streams)
    world.run(2000)
    whole = world.saved(world.tokens, world.now)
    assert 1 - whole < SHARE + 0.005  # a few steps to begin with
    assert world.lengths[-400:].count(0) > 350


def test_it_notices_when_guesses_begin_to_stand_and_when_they_cease_to() -> None:
    world = World({REWARDS: 0.05}, flat, lambda rows: 0.1 * flat(rows))
    world.run(500)
    world.odds[REWARDS] = 0.95
    assert late(world) > 2
    world.odds[REWARDS] = 0.05
    tokens, now = world.tokens, world.now
    world.run(1000)
    assert world.saved(world.tokens - tokens, world.now - now) > 0.97


def test_it_takes_whoever_guesses_better() -> None:
    rewards = World({REWARDS: 0.9, PROMPT: 0.1}, flat, lambda rows: 0.05 * flat(rows))
    prompt = World({REWARDS: 0.1, PROMPT: 0.9}, flat, lambda rows: 0.05 * flat(rows))
    assert late(rewards) > 2
    assert late(prompt) > 2


def test_long_guesses_at_one_stream_and_none_at_many() -> None:
    def knee(rows: int) -> float:
        return 1.0 if rows <= 8 else rows / 8

    one = World({REWARDS: 0.8}, knee, lambda rows: 0.1 * knee(rows))
    many = World({REWARDS: 0.8}, knee, lambda rows: 0.1 * knee(rows), streams=32)
    assert late(one) > 1.8
    assert late(many) > 0.985
    assert many.lengths[-200:].count(0) > 180


def test_the_reference_is_measured_again_while_guesses_are_made() -> None:
    world = World({REWARDS: 0.95}, flat, lambda rows: 0.05 * flat(rows))
    world.run(1000)
    assert 5 <= world.lengths[-650:].count(0) <= 12


def test_steps_that_do_other_things_too_count_for_nothing() -> None:
    world = World({REWARDS: 0.95}, flat, flat)
    for _ in range(50):
        world.pace.begin()
        assert not world.pace.considers(1, MEMBERS, plain=False)
        world.now += 100.0
        world.pace.end(200, 1)
    world.run(200)
    assert world.pace._costs[MEMBERS].alone.at(200) == pytest.approx(2.0, abs=0.1)
