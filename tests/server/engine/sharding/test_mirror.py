"""A cache that is changed as another one is has the same rows, whatever is done and whoever runs out of memory."""

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from server.engine.cache.context_cache import ContextCache
from server.engine.cache.kv_cache import KVCache, KVShape
from server.engine.cache.paged_cache import PagedKVCache
from server.engine.sharding.follower import Mirror
from server.engine.sharding.journal import Forward, Journal, Op, read
from server.engine.sharding.leader import MirroredCache

SHAPE = KVShape(1, 1, 2, torch.float32, torch.device("cpu"))
BOOKS = KVShape(1, 1, 2, torch.float32, torch.device("meta"))


class Twins:
    """``near`` is used, ``far`` is what another rank makes of the journal."""

    def __init__(self, kind: type[Any], homes: Sequence[int] = (1,), shape: KVShape = BOOKS) -> None:
        self.journal = Journal()
        self.near = MirroredCache(self.journal, 0, kind(shape, 2048), homes)
        self.far: ContextCache = kind(SHAPE, 2048)
        member: Any = SimpleNamespace(name="m", cache=self.far)
        self.mirror = Mirror(member)

    def tell(self) -> None:
        notes, _ = read(self.journal.close_with(Forward(0, ())))
        for note in notes:
            self.mirror.obey(note)

    def check(self, owners: Sequence[str]) -> None:
        assert self.far.free_blocks == self.near.free_blocks
        assert self.far.offered_blocks == self.near.offered_blocks
        present = {self.near.number(owner) for owner in owners if owner in self.near}
        assert {number for number in range(5000) if number in self.far} == present
        self.far.check_integrity()


def change(cache: MirroredCache, rng: random.Random, owners: list[str]) -> None:
    """One thing that a scheduler or a prefix cache does."""
    live = [one for one in owners if one in cache]
    offered = [one for one in live if cache._contexts[one].offered]
    in_use = [one for one in live if one not in offered]
    kind = rng.choice(("reserve", "reserve", "reserve", "copy", "offer", "touch", "free", "evict", "trim"))
    if kind == "reserve":
        owner = rng.choice([*in_use, f"new{rng.random()}"])
        if owner not in owners:
            owners.append(owner)
        cache.reserve(owner, rng.randint(1, 300))
    elif kind == "copy" and len(in_use) > 1:
        source, target = rng.sample(in_use, 2)
        cache.copy(source, target, 1)
    elif kind == "offer" and in_use:
        cache.offer(rng.choice(in_use))
    elif kind == "touch" and offered:
        cache.touch(rng.choice(offered))
    elif kind == "free" and live:
        cache.free(rng.choice(live))
    elif kind == "evict":
        cache.evict()
    elif kind == "trim":
        cache.trim()


@pytest.mark.parametrize("kind", [KVCache, PagedKVCache])
def test_thousands_of_changes_leave_both_alike(kind: type[Any]) -> None:
    for seed in range(5):
        rng, twins, owners = random.Random(seed), Twins(kind), list[str]()
        for _ in range(300):
            for _ in range(rng.randint(0, 4)):
                change(twins.near, rng, owners)
            twins.tell()
            twins.check(owners)


def test_a_row_that_was_evicted_and_comes_again_has_room_there_too() -> None:
    twins = Twins(KVCache)
    assert twins.near.reserve("one", 200)
    twins.near.offer("one")
    assert twins.near.evict()
    assert twins.near.reserve("one", 100)
    twins.tell()
    twins.check(["one"])


def test_room_that_is_there_already_costs_no_word() -> None:
    twins = Twins(KVCache)
    twins.near.reserve("one", 100)
    twins.tell()
    twins.near.reserve("one", 128)
    assert read(twins.journal.close_with(Forward(0, ())))[0] == []


def test_when_one_of_both_fails_all_is_forgotten_and_they_go_on_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    twins, owners = Twins(KVCache, shape=SHAPE), ["one", "two"]
    for owner in owners:
        twins.near.reserve(owner, 60)
    twins.tell()
    with monkeypatch.context() as patch:
        patch.setattr(twins.near._real, "reserve", _no_memory)
        with pytest.raises(torch.OutOfMemoryError):
            twins.near.reserve("one", 200)
    for owner in owners:  # as a scheduler does then
        twins.near.free(owner)
    twins.near.reserve("three", 10)
    twins.tell()
    twins.check(["three"])

    with monkeypatch.context() as patch:
        patch.setattr(twins.far, "reserve", _no_memory)
        twins.near.reserve("four", 10)
        twins.near.offer("four")
        notes, _ = read(twins.journal.close_with(Forward(0, ())))
        with pytest.raises(torch.OutOfMemoryError):
            twins.mirror.obey(notes[0])
        twins.mirror.torn = True  # as its follower does then
        twins.mirror.obey(notes[1])
    twins.near.tear()
    for owner in ("three", "four"):
        twins.near.free(owner)
    twins.near.reserve("five", 10)
    twins.tell()
    twins.check(["five"])


def test_contexts_go_where_fewest_are_and_copies_to_their_source() -> None:
    cache = Twins(KVCache, homes=(0, 1)).near
    for owner in ("a", "b", "c", "d"):
        cache.reserve(owner, 10)
    assert [cache.home(owner) for owner in ("a", "b", "c")] == [0, 1, 0]
    cache.copy("b", "d", 10)
    assert cache.home("d") == 1
    cache.free("a")
    cache.free("c")
    cache.reserve("e", 10)
    assert cache.home("e") == 0, "two are at rank 1"
    cache.free("b")
    cache.reserve("b", 10)
    assert cache.home("b") in (0, 1)


def test_books_without_memory_hold_none() -> None:
    twins = Twins(KVCache)
    twins.near.reserve("one", 1000)
    real: Any = twins.near._real
    assert all(slab.data.is_meta for slab in real.store.slabs)


def test_an_op_that_is_none_is_refused() -> None:
    twins = Twins(KVCache)
    twins.journal.note(Op.TRIM, 0)
    (note,) = read(twins.journal.close_with(Forward(0, ())))[0]
    with pytest.raises(ValueError, match="arguments"):
        twins.mirror.obey(type(note)(Op.RESERVE, 0, (1,)))


def _no_memory(*_: Any) -> bool:
    raise torch.OutOfMemoryError("no memory")
