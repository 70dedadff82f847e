"""A context keeps its tokens whoever shares its blocks, comes, grows and goes; no block is lost or owned twice by accident."""

from collections.abc import Hashable

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from server.engine.cache.kv_cache import BLOCK, KVShape
from server.engine.cache.paged_cache import SCRATCH, PagedKVCache, PageStore

SHAPE = KVShape(layers=2, kv_heads=1, head_dim=2, dtype=torch.float32, device=torch.device("cpu"))
BLOCKS = 12
OWNERS = st.integers(0, 5)
LENGTHS = st.integers(1, 5 * BLOCK)


def written(cache: PagedKVCache, owner: Hashable, start: int, stop: int) -> torch.Tensor:
    """Keys and values of tokens start … stop − 1 as they lie in the storage: [layers, 2, tokens, kv_heads, head_dim]."""
    table = torch.tensor(cache.table(owner))
    return cache.store.data[:, :, table].flatten(2, 3)[:, :, start:stop]


def write(cache: PagedKVCache, owner: Hashable, start: int, stamps: list[float]) -> None:
    for position, stamp in enumerate(stamps, start):
        block = cache.table(owner)[position // BLOCK]
        cache.store.data[:, :, block, position % BLOCK] = stamp


class PagedCacheUse(RuleBasedStateMachine):
    """The cache beside a dictionary: each owner's list of what it has written, and who offered."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = PagedKVCache(SHAPE, BLOCKS * BLOCK)
        self.texts: dict[int, list[float]] = {}
        self.offered: list[int] = []  # used longest ago first
        self.stamp = 0.0

    @rule(owner=OWNERS, length=LENGTHS)
    def grow(self, owner: int, length: int) -> None:
        """Reserve, and write what is new; offered contexts may have gone for it, in their order."""
        if owner in self.offered:
            return
        held = -(-len(self.texts.get(owner, [])) // BLOCK)
        free = self.cache.free_blocks
        granted = self.cache.reserve(owner, length)
        assert granted == (-(-length // BLOCK) - held <= free)
        self.forget_evicted()
        if not granted:
            assert self.cache.free_blocks == free
            return
        text = self.texts.setdefault(owner, [])
        new = [self.stamp + number for number in range(1, length - len(text) + 1)]
        self.stamp += len(new)
        write(self.cache, owner, len(text), new)
        text += new

    @rule(source=OWNERS, taker=OWNERS, length=LENGTHS)
    def share(self, source: int, taker: int, length: int) -> None:
        """A new context begins as another: what it holds is a copy, and whole blocks cost nothing."""
        length = min(length, len(self.texts.get(source, ())))
        if not length or taker in self.texts or not self.cache.reserve(taker, length):
            self.forget_evicted()
            return
        self.forget_evicted()
        if source not in self.texts:
            self.cache.free(taker)
            return
        free, was_free = self.cache.free_blocks, source in self.offered
        self.cache.copy(source, taker, length)
        self.texts[taker] = self.texts[source][:length]
        if not was_free:
            assert self.cache.free_blocks == free + length // BLOCK

    @rule(owner=OWNERS)
    def offer(self, owner: int) -> None:
        if owner in self.texts and owner not in self.offered:
            self.cache.offer(owner)
            self.offered.append(owner)

    @precondition(lambda self: self.offered)
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(self.offered))
        self.cache.touch(owner)
        self.offered.remove(owner)
        self.offered.append(owner)

    @rule()
    def evict(self) -> None:
        assert self.cache.evict() == bool(self.offered)
        if self.offered:
            assert self.offered[0] not in self.cache
        self.forget_evicted()

    @rule(owner=OWNERS)
    def free(self, owner: int) -> None:
        self.cache.free(owner)
        self.texts.pop(owner, None)
        if owner in self.offered:
            self.offered.remove(owner)

    @invariant()
    def every_context_reads_what_it_wrote(self) -> None:
        for owner, text in self.texts.items():
            lies = written(self.cache, owner, 0, len(text))
            assert (lies == torch.tensor(text)[:, None, None]).all()

    @invariant()
    def the_books_balance(self) -> None:
        self.cache.check_integrity()
        held = {block for owner in self.texts if owner not in self.offered for block in self.table(owner)}
        offered = {block for owner in self.offered for block in self.table(owner)} - held
        assert self.cache.free_blocks == BLOCKS - len(held)
        assert self.cache.offered_blocks == len(offered)
        assert all((owner in self.cache) == (owner in self.texts) for owner in range(6))

    def table(self, owner: int) -> list[int]:
        return list(self.cache.table(owner))

    def forget_evicted(self) -> None:
        """Those that went are the ones used longest ago."""
        gone = [owner for owner in self.offered if owner not in self.cache]
        assert gone == self.offered[: len(gone)]
        self.offered = self.offered[len(gone) :]
        for owner in gone:
            del self.texts[owner]

    def teardown(self) -> None:
        for owner in list(self.texts):
            self.cache.free(owner)
        self.cache.check_integrity()
        assert self.cache.free_blocks == BLOCKS


TestPagedCacheUse = PagedCacheUse.TestCase
TestPagedCacheUse.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.fixture
def cache() -> PagedKVCache:
    return PagedKVCache(SHAPE, BLOCKS * BLOCK)


def test_a_context_takes_the_blocks_its_tokens_need(cache: PagedKVCache) -> None:
    assert [cache.blocks_for(length) for length in (1, 64, 65, 128, 129)] == [1, 1, 2, 2, 3]
    with pytest.raises(ValueError, match="at least one token"):
        cache.blocks_for(0)
    assert cache.fits(BLOCKS * BLOCK)
    assert not cache.fits(BLOCKS * BLOCK + 1)


def test_what_a_context_has_stays_in_place_when_it_grows(cache: PagedKVCache) -> None:
    cache.reserve("a", 100)
    before = list(cache.table("a"))
    cache.reserve("b", 100)
    cache.reserve("a", 300)
    assert list(cache.table("a"))[:2] == before
    with pytest.raises(KeyError):
        cache.table("nobody")


def test_a_shared_block_outlives_whoever_goes_first(cache: PagedKVCache) -> None:
    cache.reserve("first", 130)
    write(cache, "first", 0, [float(n) for n in range(130)])
    cache.reserve("second", 130)
    cache.copy("first", "second", 130)
    assert cache.table("first")[:2] == cache.table("second")[:2]
    assert cache.table("first")[2] != cache.table("second")[2]
    assert cache.free_blocks == BLOCKS - 4
    cache.free("first")
    cache.reserve("third", 8 * BLOCK)
    write(cache, "third", 0, [-1.0] * 8 * BLOCK)
    assert written(cache, "second", 0, 130)[0, 0, :, 0, 0].tolist() == list(range(130))


def test_a_kept_prefix_that_a_context_shares_is_not_free(cache: PagedKVCache) -> None:
    cache.reserve("prefix", 2 * BLOCK)
    cache.offer("prefix")
    assert (cache.free_blocks, cache.offered_blocks) == (BLOCKS, 2)
    cache.reserve("reader", 2 * BLOCK)
    cache.copy("prefix", "reader", 2 * BLOCK)
    assert (cache.free_blocks, cache.offered_blocks) == (BLOCKS - 2, 0)
    cache.evict()
    assert (cache.free_blocks, cache.offered_blocks) == (BLOCKS - 2, 0)
    cache.check_integrity()


def test_nobody_is_given_the_scratch_block(cache: PagedKVCache) -> None:
    assert cache.reserve("all", BLOCKS * BLOCK)
    assert SCRATCH not in cache.table("all")
    assert cache.store.data.shape[2] == BLOCKS + 1
    assert not cache.reserve("more", 1)


def test_caches_of_one_store_have_blocks_and_budgets_of_their_own() -> None:
    store = PageStore(SHAPE)
    caches = [PagedKVCache(SHAPE, blocks * BLOCK, store) for blocks in (2, 3)]
    for cache, blocks in zip(caches, (2, 3), strict=True):
        assert cache.num_blocks == cache.free_blocks == blocks
        assert not cache.reserve("a", blocks * BLOCK + 1)
        assert cache.reserve("a", blocks * BLOCK)
    tables = [set(cache.table("a")) for cache in caches]
    assert not tables[0] & tables[1]
    assert store.data.shape[2] == 1 + 2 + 3
    with pytest.raises(RuntimeError, match="takes no more caches"):
        PagedKVCache(SHAPE, BLOCK, store)


def test_a_budget_below_one_block_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 64 tokens"):
        PagedKVCache(SHAPE, BLOCK - 1)


def test_a_closed_cache_holds_nothing_and_is_not_closed_in_use() -> None:
    cache = PagedKVCache(SHAPE, 4 * BLOCK)
    for owner in ("kept", "used"):
        cache.reserve(owner, BLOCK)
    cache.offer("kept")
    with pytest.raises(ValueError, match="in use"):
        cache.close()
    assert "kept" in cache
    cache.free("used")
    cache.close()
    assert "kept" not in cache
    cache.check_integrity()
