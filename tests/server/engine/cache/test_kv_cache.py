"""Rows stay whole while others come, go and grow; the budget is never exceeded; nothing is lost."""

import random

import pytest
import torch

from server.engine.cache.kv_cache import BLOCK, KVCache, KVShape, RowStore, Slab, capacity_for

SHAPE = KVShape(layers=2, kv_heads=2, head_dim=4, dtype=torch.float32, device=torch.device("cpu"))


def test_capacities_grow_by_at_most_half_and_hold_what_they_promise() -> None:
    sizes = sorted({capacity_for(length) for length in range(1, 5000)})
    assert sizes[:8] == [64, 128, 192, 256, 384, 512, 768, 1024]
    for length in range(1, 5000):
        capacity = capacity_for(length)
        assert capacity >= length
        assert capacity == 64 or capacity <= 2 * length
    with pytest.raises(ValueError, match="at least one token"):
        capacity_for(0)


def test_the_price_of_a_token() -> None:
    assert SHAPE.bytes_per_token == 2 * 2 * 2 * 4 * 4


def test_random_use_keeps_every_row_and_the_budget() -> None:
    """Each owner stamps its row; whatever happens to others, the stamp stays."""
    rng = random.Random(0)
    cache = KVCache(SHAPE, max_tokens=40 * BLOCK)
    lengths: dict[int, int] = {}
    for step in range(3000):
        owner = rng.randrange(30)
        if rng.random() < 0.3:
            cache.free(owner)
            lengths.pop(owner, None)
        else:
            wanted = max(lengths.get(owner, 0), rng.randint(1, 500))
            free = cache.free_blocks
            held = capacity_for(lengths[owner]) // BLOCK if owner in lengths else 0
            granted = cache.reserve(owner, wanted)
            assert granted == (capacity_for(wanted) // BLOCK - held <= free)
            if granted:
                before = lengths.get(owner, 0)
                row = cache.row(owner)
                assert (row.slab.data[:, :, row.index, :, :before] == owner).all()
                row.slab.data[:, :, row.index, :, :wanted] = owner
                lengths[owner] = wanted
        cache.check_integrity()
        if step % 100 == 0:
            for other, length in lengths.items():
                row = cache.row(other)
                assert (row.slab.data[:, :, row.index, :, :length] == other).all()
    for owner in list(lengths):
        cache.free(owner)
    assert cache.free_blocks == cache.num_blocks == 40
    cache.trim()
    assert cache.allocated_blocks == 0


def test_a_refused_reservation_changes_nothing() -> None:
    cache = KVCache(SHAPE, max_tokens=2 * BLOCK)
    assert cache.reserve("a", 10)
    assert not cache.reserve("b", 100)
    assert not cache.reserve("a", 150)
    assert cache.free_blocks == 1
    assert cache.row("a").slab.capacity == BLOCK
    with pytest.raises(KeyError):
        cache.row("b")


def test_a_budget_below_one_block_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 64 tokens"):
        KVCache(SHAPE, max_tokens=63)


def test_caches_of_one_store_keep_their_rows_and_their_own_budgets() -> None:
    """Two members' rows lie in the same slabs; each stamps its own, and neither takes room from the other."""
    rng = random.Random(1)
    store = RowStore(SHAPE)
    caches = [KVCache(SHAPE, max_tokens=size * BLOCK, store=store) for size in (20, 12)]
    lengths: dict[tuple[int, int], int] = {}
    for _ in range(2000):
        number, owner = rng.randrange(2), rng.randrange(12)
        cache, key = caches[number], (number, owner)
        others = caches[1 - number].free_blocks
        if rng.random() < 0.3:
            cache.free(owner)
            lengths.pop(key, None)
        elif cache.reserve(owner, wanted := max(lengths.get(key, 0), rng.randint(1, 300))):
            row = cache.row(owner)
            stamp = 1 + owner + 100 * number
            assert (row.slab.data[:, :, row.index, :, : lengths.get(key, 0)] == stamp).all()
            row.slab.data[:, :, row.index, :, :wanted] = stamp
            lengths[key] = wanted
        assert caches[1 - number].free_blocks == others
        for one in caches:
            one.check_integrity()
    assert store.allocated_blocks <= 32
    for cache in caches:
        for owner in range(12):
            cache.free(owner)
        assert cache.free_blocks == cache.num_blocks
    caches[0].trim()
    assert store.allocated_blocks == 0


def test_a_closed_cache_leaves_its_neighbours_their_rows_and_takes_its_budget_along() -> None:
    store = RowStore(SHAPE)
    mine, other = KVCache(SHAPE, 4 * BLOCK, store), KVCache(SHAPE, 8 * BLOCK, store)
    for cache, owner, stamp in ((mine, "kept", 1.0), (other, "theirs", 2.0), (mine, "used", 3.0)):
        cache.reserve(owner, BLOCK)
        row = cache.row(owner)
        row.slab.data[:, :, row.index] = stamp
    mine.offer("kept")
    with pytest.raises(ValueError, match="in use"):
        mine.close()
    assert "kept" in mine
    mine.free("used")
    mine.close()
    row = other.row("theirs")
    assert bool((row.slab.data[:, :, row.index] == 2.0).all())
    assert (store.num_blocks, store.allocated_blocks) == (8, 1)
    other.check_integrity()


def test_a_cache_closes_though_there_is_no_memory_to_move_its_neighbours_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = RowStore(SHAPE)
    mine, other = KVCache(SHAPE, 4 * BLOCK, store), KVCache(SHAPE, 8 * BLOCK, store)
    for cache in (mine, other):
        cache.reserve("one", BLOCK)
    mine.free("one")

    def none(_: Slab, __: int) -> None:
        raise torch.OutOfMemoryError("no memory")

    with monkeypatch.context() as short:
        short.setattr(Slab, "resize", none)
        mine.close()
    assert (mine.num_blocks, store.num_blocks) == (0, 8)
    other.trim()
    other.check_integrity()
    assert store.allocated_blocks == 1
