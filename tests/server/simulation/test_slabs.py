"""What is written when slabs are put in order, counted by hand and beside the real ones."""

import random
from collections import Counter

import pytest
import torch

from server.engine.cache.kv_cache import KVCache, KVShape, RowStore
from server.simulation.limits import Limits
from server.simulation.memory import Memory
from server.simulation.request import Prompt
from server.simulation.slabs import Slabs, slabs_of

SHAPE = KVShape(1, 1, 2, torch.float32, torch.device("cpu"))


def test_a_slab_that_is_full_grows_by_half_and_is_written_anew() -> None:
    slabs = Slabs(100)
    assert slabs.append(2) == 4 * 2 * 64  # zeros for four rows
    assert [slabs.append(2) for _ in range(3)] == [0, 0, 0]
    assert slabs.append(2) == (8 + 4) * 2 * 64  # four more, and the four that are there
    assert slabs.allocated_blocks == 16
    slabs.remove(2)
    assert slabs.append(2) == 0


def test_where_the_budget_is_short_others_give_back_what_they_do_not_use() -> None:
    slabs = Slabs(10)
    slabs.append(2)
    slabs.append(1)
    assert slabs.allocated_blocks == 10  # of two blocks four rows, of one what was left
    assert slabs.append(3) == ((2 + 2) + (1 + 1) + 2 * 3) * 64
    assert slabs.allocated_blocks == 2 + 1 + 2 * 3


@pytest.mark.parametrize("seed", range(3))
def test_beside_the_real_ones(seed: int) -> None:
    rng = random.Random(seed)
    store, slabs = RowStore(SHAPE), Slabs(120)
    cache = KVCache(SHAPE, 120 * 64, store)
    rows: Counter[int] = Counter()
    for number in range(300):
        tokens = rng.randint(1, 600)
        if rng.random() < 0.6 and cache.fits(tokens):
            cache.reserve(number, tokens)
            rows[number] = cache.blocks_for(tokens)
            slabs.append(rows[number])
        elif rows:
            gone = rng.choice(list(rows))
            cache.free(gone)
            slabs.remove(rows.pop(gone))
        assert slabs.allocated_blocks == store.allocated_blocks


def test_members_of_one_store_share_slabs_and_pages_have_none() -> None:
    base, first, second = slabs_of(Limits(64 * 50), (0, 1, 1))
    assert first is second is not base
    assert first is not None
    assert first.blocks == 100
    assert slabs_of(Limits(64 * 50, cache="pages"), (0, 1)) == [None, None]


def test_a_member_tells_what_was_written_for_it_once() -> None:
    memory = Memory(Limits(64 * 50, prefill_chunk=64, prefix_share=1.0), Slabs(50))
    assert memory.reserve(0, 60) == 1
    assert memory.take_moved() == 4 * 64
    assert memory.take_moved() == 0
    assert memory.reserve(1, 70) == 2  # set aside, zeros for four rows, written again
    assert memory.take_moved() == 2 * 64 + 4 * 2 * 64
    memory.keep(Prompt(0, 0, 1, 128))
    assert memory.take_moved() == 128  # copied into a row that was there
    assert memory.find(Prompt(0, 0, 1, 200)) == 128
    assert memory.take_moved() == 128
    paged = Memory(Limits(64 * 50, cache="pages"))
    paged.reserve(0, 60)
    assert paged.take_moved() == 0
