"""Prompts that begin alike are read once, exactly, by those who may share them; and they take no room that others need."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from server.engine import Engine, SamplingParams, SequenceRequest
from server.engine.cache.kv_cache import BLOCK, KVCache, KVShape
from server.engine.cache.prefix_cache import PrefixCache

SHAPE = KVShape(layers=1, kv_heads=1, head_dim=4, dtype=torch.float32, device=torch.device("cpu"))
SYSTEM = [5 + number * 7 % 200 for number in range(100)]
MIX = {"base": 1.0, "helpful": 0.7, "harmless": -0.3}
both_caches = pytest.mark.parametrize("cache", ["slabs", "pages"])
"""Whatever lies in rows of slabs and in pages alike."""


def request(id: str, question: list[int], *, salt: str = "", **sampling: Any) -> SequenceRequest:
    """A question behind the system prompt, which every member reads with something of its own in front."""
    prompts = {
        "base": SYSTEM + question,
        "helpful": [9, *SYSTEM, *question],
        "harmless": [8, 7, *SYSTEM, *question],
    }
    options: dict[str, Any] = {"max_tokens": 10, "seed": 3, **sampling}
    return SequenceRequest(id, prompts, MIX, SamplingParams(**options), salt=salt)


class Shelf:
    """A cache whose rows are stamped, and the prefixes kept in it."""

    def __init__(self, *, blocks: int, share: int) -> None:
        self.cache = KVCache(SHAPE, blocks * BLOCK)
        self.prefixes = PrefixCache(self.cache, 4, share)

    def keep(self, tokens: list[int], salt: str = "", tenant: str = "") -> None:
        """Reads ``tokens`` as a sequence would: every position of its row holds the token."""
        assert self.cache.reserve("reader", len(tokens))
        row = self.cache.row("reader")
        row.slab.data[:, :, row.index, :, : len(tokens)] = torch.tensor(tokens, dtype=torch.float32)[:, None]
        self.prefixes.keep(salt, tokens, "reader", tenant)
        self.cache.free("reader")
        self.cache.check_integrity()

    def find(self, tokens: list[int], salt: str = "") -> int:
        """How many tokens are there to copy; they are the right ones."""
        found = self.prefixes.find(salt, tokens)
        if found is None:
            return 0
        owner, length = found
        row = self.cache.row(owner)
        assert row.slab.data[0, 0, row.index, 0, :length, 0].tolist() == tokens[:length]
        return length


def test_whole_chunks_are_found_as_far_as_they_are_equal_and_one_token_is_left() -> None:
    shelf = Shelf(blocks=8, share=8)
    shelf.keep([*range(10)])
    assert shelf.find([*range(12)]) == 8
    assert shelf.find([0, 1, 2, 3, 9, 9, 9, 9]) == 4
    assert shelf.find([*range(8)]) == 4
    assert shelf.find([*range(4)]) == 0
    assert shelf.find([1, 1, 2, 3, 4]) == 0


def test_a_copy_for_which_there_is_no_memory_leaves_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(blocks=8, share=8)

    def short(*_: object) -> None:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(shelf.cache, "copy", short)
        with pytest.raises(torch.OutOfMemoryError):
            shelf.keep([*range(10)])
    shelf.cache.free("reader")
    shelf.cache.check_integrity()
    assert (shelf.cache.free_blocks, shelf.cache.offered_blocks) == (8, 0)
    assert shelf.find([*range(10)]) == 0
    shelf.keep([*range(10)])
    assert shelf.find([*range(10)]) == 8


def test_the_longest_of_several_is_found() -> None:
    shelf = Shelf(blocks=8, share=8)
    shelf.keep([0, 1, 2, 3, 7, 7, 7, 7])
    shelf.keep([*range(16)])
    shelf.keep([0, 1, 2, 3, 4, 5, 6, 7, 9, 9, 9, 9])
    assert shelf.find([*range(20)]) == 16


def test_another_salt_finds_nothing() -> None:
    shelf = Shelf(blocks=8, share=8)
    shelf.keep([*range(8)], salt="mine")
    assert shelf.find([*range(9)], salt="theirs") == 0
    assert shelf.find([*range(9)], salt="mine") == 8


def test_what_is_kept_counts_as_free_and_goes_when_there_is_need() -> None:
    shelf = Shelf(blocks=3, share=3)
    shelf.keep([*range(8)])
    shelf.keep([*range(100, 108)])
    assert shelf.cache.free_blocks == 3
    assert shelf.find([*range(9)]) == 8  # used last: the other one goes first
    assert shelf.cache.reserve("a", 2 * BLOCK)
    assert shelf.find([*range(9)]) == 8
    assert shelf.find([*range(100, 109)]) == 0
    assert shelf.cache.reserve("b", BLOCK)
    assert shelf.find([*range(9)]) == 0
    assert shelf.cache.free_blocks == 0
    assert not shelf.cache.reserve("c", 1)
    shelf.cache.check_integrity()


def test_prefixes_take_no_more_than_their_share_and_the_last_used_stay() -> None:
    shelf = Shelf(blocks=8, share=2)
    for first in (0, 100, 200):
        shelf.keep([*range(first, first + 8)])
    assert shelf.cache.offered_blocks == 2
    assert [shelf.find([*range(first, first + 9)]) for first in (0, 100, 200)] == [0, 8, 8]
    nothing = Shelf(blocks=8, share=0)
    nothing.keep([*range(8)])
    assert nothing.find([*range(9)]) == 0


def test_a_tenant_that_keeps_much_drops_its_own() -> None:
    shelf = Shelf(blocks=9, share=4)
    shelf.keep([*range(8)], tenant="quiet")
    for first in range(100, 200, 10):
        shelf.keep([*range(first, first + 8)], tenant="flood")
    assert shelf.find([*range(9)]) == 8
    assert [shelf.find([*range(first, first + 9)]) for first in (160, 170, 180, 190)] == [0, 8, 8, 8]


def test_a_prompt_that_never_fits_drops_nothing() -> None:
    shelf = Shelf(blocks=8, share=1)
    shelf.keep([*range(8)])
    shelf.keep([*range(2 * BLOCK)])
    assert shelf.find([*range(9)]) == 8


def test_one_that_goes_on_takes_the_place_of_the_shorter() -> None:
    shelf = Shelf(blocks=8, share=8)
    shelf.keep([*range(8)])
    shelf.keep([*range(16)])
    shelf.keep([*range(12)])
    assert shelf.cache.offered_blocks == 1
    assert shelf.find([*range(17)]) == 16


def test_random_use_finds_what_a_plain_search_does() -> None:
    rng = random.Random(0)
    shelf, kept = Shelf(blocks=1000, share=1000), set[tuple[int, ...]]()
    for _ in range(400):
        tokens = [rng.randrange(2) for _ in range(rng.randint(1, 30))]
        wanted = tokens[:-1]
        best = max(
            (n for n in range(0, len(wanted) + 1, 4) if any(one[:n] == tuple(wanted[:n]) for one in kept)),
            default=0,
        )
        assert shelf.find(tokens) == best
        shelf.keep(tokens)
        kept.add(tuple(tokens[: len(tokens) // 4 * 4]))


@both_caches
def test_an_answer_behind_a_kept_prompt_is_bit_for_bit_what_it_is_without(
    make_engine: Callable[..., Engine],
) -> None:
    limits: dict[str, Any] = {"prefill_chunk": 16, "deterministic": True}
    keeping, forgetting = make_engine(**limits), make_engine(**limits, prefix_share=0.0)
    for number in range(4):
        one = request(f"r{number}", [10 + number, 30], logprobs=3)
        outputs = []
        for engine in (keeping, forgetting):
            engine.add(one)
            made = []
            while engine.has_work:
                made += engine.step()
            outputs.append(made)
            engine.check_integrity()
        assert outputs[0] == outputs[1]
        assert outputs[0][0].cached_tokens == (96 if number else 0)
        assert outputs[1][0].cached_tokens == 0
    stats = keeping.stats()
    assert (stats.prefix_queries, stats.prefix_hits) == (4 * 102, 3 * 96)
    assert stats.prompt_tokens_computed == 102 + 3 * 6
    assert forgetting.stats().prompt_tokens_computed == 4 * 102


@both_caches
def test_a_prompt_is_shared_while_the_first_still_answers(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(prefill_chunk=16)
    engine.add(request("first", [1], max_tokens=40))
    while not engine.step():
        pass
    engine.add(request("second", [2]))
    before = engine.stats().prompt_tokens_computed
    while engine.has_work:
        engine.step()
    assert engine.stats().prompt_tokens_computed - before == 101 - 96
    engine.check_integrity()


def test_tenants_share_nothing(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(prefill_chunk=16)
    for salt in ("a", "b"):
        engine.generate([request(salt, [1, 2], salt=salt)])
    assert engine.stats().prefix_hits == 0
    assert engine.stats().prompt_tokens_computed == 2 * 102


def test_log_probs_of_a_prompt_are_computed_though_it_is_kept(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    prompts = dict.fromkeys(MIX, SYSTEM)
    sampling = SamplingParams(0, prompt_logprobs=0)
    engine.generate([SequenceRequest("first", prompts, MIX, SamplingParams(1))])
    engine.add(SequenceRequest("second", prompts, MIX, sampling))
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    assert outputs[0].prompt_logprobs is not None
    assert len(outputs[0].prompt_logprobs) == len(SYSTEM)


@both_caches
@pytest.mark.parametrize("blocks", [6, 9, 14])
def test_under_memory_pressure_every_answer_is_what_it_is_with_room(
    make_engine: Callable[..., Engine], blocks: int
) -> None:
    limits: dict[str, Any] = {"prefill_chunk": 16, "deterministic": True}
    rng = random.Random(blocks)
    requests = [
        request(f"r{n}", [rng.randrange(200) for _ in range(rng.randint(1, 30))], seed=n, max_tokens=8 + n)
        for n in range(10)
    ]
    tight = make_engine(**limits, kv_tokens=blocks * BLOCK, prefix_share=0.5)
    roomy = make_engine(**limits, prefix_share=0.0)
    assert tight.generate(requests) == roomy.generate(requests)
    tight.check_integrity()
    roomy.check_integrity()
    if blocks == 6:
        assert tight.stats().preemptions > 0


def test_a_share_outside_its_range_is_refused(make_engine: Callable[..., Engine]) -> None:
    with pytest.raises(ValueError, match=r"prefix_share must be in \[0, 1\]"):
        make_engine(prefix_share=1.5)
