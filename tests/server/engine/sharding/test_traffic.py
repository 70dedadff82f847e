"""Whatever comes, leaves, changes or is short of memory: two processes tell what one does, and nothing stays behind."""

import random
import signal
from collections import defaultdict
from collections.abc import Callable

import pytest

from server.engine import Engine, SamplingParams, SequenceRequest
from tests.server.engine.sharding.conftest import Pair
from tests.server.engine.sharding.test_group import MEMBERS, MIXES

STEMS = tuple(tuple(random.Random(stem).randrange(5, 300) for _ in range(60)) for stem in range(3))
"""What prompts begin with, so that they are kept and copied."""


def come(rng: random.Random, number: int) -> SequenceRequest:
    """A request of any kind: some fork an earlier one, some are held when they end, some only read."""
    stem = rng.choice(STEMS)
    prompt = [*stem[: rng.randint(1, 60)], *(rng.randrange(5, 300) for _ in range(rng.randint(0, 9)))]
    begun = tuple(rng.randrange(5, 300) for _ in range(rng.choice((0, 0, 3))))
    return SequenceRequest(
        id=f"r{number}",
        prompts={**dict.fromkeys(MEMBERS[:4], prompt), "base.negative": list(stem[:5])},
        mix=rng.choice(MIXES),
        sampling=SamplingParams(temperature=0.0, max_tokens=len(begun) + rng.randint(1, 50)),
        begun=begun,
        parent=f"r{rng.randrange(number)}" if number and rng.random() < 0.3 else None,
        hold=rng.random() < 0.3,
        scores=("base", "harmless") if begun and rng.random() < 0.5 else (),
        owner=rng.choice(("", "", "another")),
    )


class Traffic:
    """What an engine makes of the same requests.

    Attributes:
        told: by id, every token with its index, and how the response ended.
        scores: by id and member.
    """

    def __init__(
        self,
        engine: Engine,
        seed: int,
        *,
        steady: bool = False,
        strike: Callable[[int], None] = lambda _: None,
    ) -> None:
        """``steady``: nobody changes weights or leaves, so that it does not matter when a token is drawn."""
        self.told = defaultdict[str, list[tuple[int, int, str | None]]](list)
        self.scores: dict[str, float] = {}
        self._engine = engine
        rng, number = random.Random(seed), 0
        for step in range(120):
            for _ in range(rng.choice((0, 0, 1, 2)) if step < 90 else 0):
                engine.add(come(rng, number))
                number += 1
            some, mix, kind = f"r{rng.randrange(number + 1)}", rng.choice(MIXES), rng.random()
            if kind < 0.05 and not steady:
                engine.abort(some)
            elif kind < 0.2 and not steady:
                engine.change_all([some], mix)
            elif kind < 0.3:
                engine.release([some])
            strike(step)
            self._step()
        while engine.has_work:
            self._step()
        engine.release([f"r{index}" for index in range(number)])
        engine.check_integrity()

    def _step(self) -> None:
        for one in self._engine.step():
            assert one.error is None
            self.told[one.id].append((one.index, one.token, one.finish_reason))
            self.scores |= {f"{one.id} {name}": score for name, score in (one.scores or {}).items()}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_any_traffic_is_told_alike(pair: Pair, seed: int) -> None:
    engine = pair.engine()
    told, alone = Traffic(engine, seed), Traffic(pair.lone_engine(), seed)
    assert told.told == alone.told
    assert told.scores == pytest.approx(alone.scores, abs=1e-3)
    assert sum(map(len, alone.told.values())) > 500
    assert alone.scores
    assert engine.stats().prefix_hits > 0
    assert engine.stats().preemptions > 0


@pytest.mark.slow
def test_so_it_is_where_memory_is_short_again_and_again(pair: Pair) -> None:
    def strike(step: int) -> None:
        if step % 20 == 5:
            pair.follower.send_signal(signal.SIGUSR1 if step % 40 == 5 else signal.SIGUSR2)

    engine = pair.engine()
    told = Traffic(engine, 7, steady=True, strike=strike)
    assert told.told == Traffic(pair.lone_engine(), 7, steady=True).told
    assert engine.stats().memory_faults > 1
