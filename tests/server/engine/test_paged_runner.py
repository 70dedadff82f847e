"""Members over pages: whatever is decoded by recordings is what is computed as it comes."""

import gc
import random
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from arm_models.loading import Family, ModelSource, load_family
from server.engine import (
    ATTENTION,
    Engine,
    EngineConfig,
    Member,
    SamplingParams,
    SequenceRequest,
    build_members,
    register_attention,
)
from server.engine.chunk import Chunk
from server.engine.decoder import Decoder
from server.engine.paged_runner import PagedRunner
from tests.server.engine.test_cuda_graph import TraceRecorder

LONGEST = 256


@pytest.fixture
def family(make_checkpoint: Callable[..., Path]) -> Family:
    """Three models of one shape, which run in one forward, and one that transformers runs."""
    register_attention()
    names = [("base", "llama"), ("helpful", "llama"), ("harmless", "llama"), ("other", "gpt2")]
    sources = [
        ModelSource(name, str(make_checkpoint(kind, f"paged-{name}", seed=seed)))
        for seed, (name, kind) in enumerate(names)
    ]
    return load_family(sources[0], sources[1:], attention=ATTENTION)


def paged(family: Family) -> dict[str, Member]:
    return {member.name: member for member in build_members(family, EngineConfig(cache="pages"))}


def runners(members: dict[str, Member]) -> list[PagedRunner]:
    found = {id(member.runner): member.runner for member in members.values()}.values()
    assert all(isinstance(runner, PagedRunner) for runner in found)
    return [runner for runner in found if isinstance(runner, PagedRunner)]


def read(members: dict[str, Member], texts: dict[str, list[list[int]]], until: int) -> None:
    """Every member's cache has every text up to ``until``."""
    for name, member in members.items():
        for owner, text in enumerate(texts[name]):
            assert member.cache.reserve(owner, len(text))
            member.forward([Chunk(owner, text[:until], 0, True, 0)])


@torch.inference_mode()
def decoded(members: dict[str, Member], texts: dict[str, list[list[int]]], seed: int) -> list[torch.Tensor]:
    """Logits of ragged steps: some members, some contexts, one token each or several to verify."""
    rng = random.Random(seed)
    done = {name: [60] * len(own) for name, own in texts.items()}
    read(members, texts, 60)
    results: list[torch.Tensor] = []
    for _ in range(25):
        for runner in runners(members):
            chunks: dict[str, list[Chunk]] = {}
            for lane in runner.lanes:
                for owner, text in enumerate(texts[lane.name]):
                    at = done[lane.name][owner]
                    count = min(rng.choice([0, 1, 1, 3]), len(text) - at)
                    if count:
                        logits = rng.choice([1, count])
                        part = Chunk(owner, text[at : at + count], at, False, logits)
                        chunks.setdefault(lane.name, []).append(part)
                        done[lane.name][owner] += count
            if chunks:
                answers = runner.forward(chunks)
                assert list(answers) == list(chunks)
                results.extend(answers.values())
    return results


@pytest.fixture
def texts(family: Family) -> dict[str, list[list[int]]]:
    rng = random.Random(0)
    names = [model.name for model in (family.base, *family.rewards)]
    return {name: [[rng.randrange(300) for _ in range(90)] for _ in range(5)] for name in names}


@pytest.mark.parametrize("recorder", [TraceRecorder, lambda: None], ids=["recorded", "run"])
def test_decoding_by_buckets_gives_what_decoding_as_it_comes_gives(
    family: Family, texts: dict[str, list[list[int]]], recorder: Callable[[], TraceRecorder | None]
) -> None:
    plain, bucketed = paged(family), paged(family)
    for runner in runners(bucketed):
        # In transformers' own code a capture is noticed and checks that would wait are left out; a trace is not.
        fused = isinstance(runner.model, Decoder)
        runner.record(16, LONGEST, recorder() if fused else None)
    expected, got = decoded(plain, texts, 1), decoded(bucketed, texts, 1)
    assert len(got) == len(expected) > 60
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 1e-4
    if recorder() is not None:
        (made,) = [one.graphs for one in runners(bucketed) if isinstance(one.model, Decoder)]
        assert made is not None
        assert made.records
        assert len(made) > 3


def test_a_runner_whose_lanes_are_all_left_goes_at_once_with_its_weights(family: Family) -> None:
    """On a GPU it has recordings, and what serves from the start is passed over when cycles are looked for."""
    members = paged(family)
    gc.collect()
    gc.disable()
    try:
        for runner in runners(members):
            runner.record(4, LONGEST, None)
            for lane in runner.lanes:
                runner.vacate(lane.name)
        left = [weakref.ref(one) for one in runners(members)]
        del runner, members
        assert [one() for one in left] == [None] * len(left)
    finally:
        gc.enable()


def test_logits_of_a_step_stay_what_they_are_when_the_next_has_run(family: Family) -> None:
    members = paged(family)
    base = members["base"]
    assert isinstance(base.runner, PagedRunner)
    base.runner.record(4, LONGEST, None)
    with torch.inference_mode():
        base.cache.reserve(0, 10)
        first = base.forward([Chunk(0, [5], 0, False, 1)])
        kept = first.clone()
        base.forward([Chunk(0, [9], 1, False, 1)])
    assert torch.equal(first, kept)


@pytest.mark.parametrize("recorded", [True, False])
def test_tokens_that_only_the_device_knows_are_those_drawn_in_their_rows(
    family: Family, recorded: bool
) -> None:
    base = paged(family)["base"]
    assert isinstance(base.runner, PagedRunner)
    if recorded:
        base.runner.record(4, LONGEST, TraceRecorder())
    rows = []
    with torch.inference_mode():
        for second, third, drawn in ((-3, -1, torch.tensor([7, 1, 5])), (5, 7, None)):
            base.cache.reserve(0, 10)
            first = base.runner.forward({"base": [Chunk(0, [9, second], 0, True, 1)]}, drawn)
            last = base.runner.forward({"base": [Chunk(0, [third], 2, False, 1)]}, drawn)
            rows.append(torch.cat((first["base"], last["base"])))
            base.cache.free(0)
    assert torch.equal(rows[0], rows[1])


def test_prompts_and_steps_that_are_too_large_run_as_they_come(family: Family) -> None:
    members = paged(family)
    base = members["base"]
    assert isinstance(base.runner, PagedRunner)
    recorder = TraceRecorder()
    base.runner.record(4, LONGEST, recorder)
    with torch.inference_mode():
        base.cache.reserve(0, 20)
        base.forward([Chunk(0, [5, 6, 7], 0, True, 1)])
        base.forward([Chunk(0, [5, 6, 7, 8, 9], 3, False, 5)])
        assert recorder.made == 0
        base.forward([Chunk(0, [5, 6, 7, 8], 8, False, 1)])
    assert recorder.made == 1


def test_an_engine_draws_the_same_tokens_from_pages_and_from_slabs(
    make_engine: Callable[..., Engine], family: Family
) -> None:
    rng = random.Random(3)
    names = [model.name for model in (family.base, *family.rewards)]
    requests = [
        SequenceRequest(
            f"r{number}",
            {name: [rng.randrange(300) for _ in range(rng.randint(1, 90))] for name in names},
            {"base": 1.0, "helpful": 0.5, "harmless": rng.choice([0.0, -0.5]), "other": 0.3},
            SamplingParams(20, seed=number),
        )
        for number in range(12)
    ]
    answers = [
        make_engine(family, cache=cache, prefill_chunk=32).generate(requests) for cache in ("slabs", "pages")
    ]
    assert answers[0] == answers[1]
