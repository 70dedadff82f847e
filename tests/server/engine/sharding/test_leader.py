"""A member that leaves is gone from every rank at once, and from rank 0's memory."""

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import torch

from server.engine.cache.kv_cache import KVCache, KVShape
from server.engine.runner import RunnerLane
from server.engine.sharding.journal import Forward, Journal, Note, Op, read
from server.engine.sharding.leader import FINE, OUT_OF_MEMORY, Led, LedRunner, MirroredCache

SHAPE = KVShape(1, 1, 2, torch.float32, torch.device("cpu"))


class Ranks:
    """Hears what is told; ``status``: what the others answer."""

    def __init__(self) -> None:
        self.told: list[list[int]] = []
        self.status = FINE

    def tell(self, words: Sequence[int]) -> None:
        self.told.append(list(words))

    def worst(self, status: int) -> int:
        return max(status, self.status)


class Local:
    """Rank 0's own copy of a member."""

    def __init__(self) -> None:
        self.runner = self
        self.vacated: list[str] = []

    def vacate(self, name: str) -> None:
        self.vacated.append(name)


def make(*names: str) -> tuple[Any, LedRunner, list[Led]]:
    ranks: Any = Ranks()
    journal, everyone = Journal(), list[Led]()
    led: dict[str, Led] = {}
    for number, name in enumerate(names):
        local: Any = Local()
        led[name] = Led(number, MirroredCache(journal, number, KVCache(SHAPE, 256), (0, 1)), local)
    everyone += led.values()
    lanes = [RunnerLane(name, 300) for name in names]
    return ranks, LedRunner(ranks, journal, led, lanes, together=False, all_led=everyone), everyone


def test_the_others_hear_at_once_that_a_member_is_gone() -> None:
    ranks, runner, everyone = make("one", "two")
    local: Any = everyone[1].local
    everyone[1].cache.close()
    runner.vacate("two")
    (words,) = ranks.told
    assert read(words) == ([Note(Op.CLOSE, 1), Note(Op.VACATE, 1)], Forward(0, ()))
    assert local.vacated == ["two"]
    assert [lane.name for lane in runner.lanes] == ["one"]


def test_nothing_of_it_stays_with_rank_0() -> None:
    _, runner, everyone = make("one", "two")
    copy = weakref.ref(everyone[1].local)
    everyone[1].cache.close()
    runner.vacate("two")
    gc.collect()
    assert copy() is None
    assert len(everyone) == 1


def test_who_is_short_of_memory_then_is_no_concern_of_a_member_that_leaves() -> None:
    ranks, runner, everyone = make("one", "two")
    ranks.status = OUT_OF_MEMORY
    everyone[1].cache.close()
    runner.vacate("two")
    assert len(ranks.told) == 1
