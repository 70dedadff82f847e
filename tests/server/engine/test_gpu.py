"""On a GPU: the answers of the CPU, from pages and recordings. ``make test-gpu``; skipped without one."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from arm_models.loading import Family, ModelSource, load_family
from server.engine import (
    ATTENTION,
    Engine,
    EngineConfig,
    SamplingParams,
    SequenceRequest,
    TokenOutput,
    build_members,
    register_attention,
)
from server.engine.paged_runner import PagedRunner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
KINDS = [("base", "llama"), ("helpful", "llama"), ("harmless", "qwen3"), ("other", "gpt2")]


@pytest.fixture(scope="module")
def sources(make_checkpoint: Callable[..., Path]) -> list[ModelSource]:
    """Two models of one shape, one of another, and one that transformers runs."""
    return [
        ModelSource(name, str(make_checkpoint(kind, f"gpu-{name}", seed=seed)))
        for seed, (name, kind) in enumerate(KINDS)
    ]


Load = Callable[..., Family]


@pytest.fixture(scope="module")
def load(sources: list[ModelSource]) -> Load:
    """``load(device=…, dtype=…)``: the four of them."""

    def made(**options: Any) -> Family:
        register_attention()
        first, *rest = [replace(source, **options) for source in sources]
        return load_family(first, rest, attention=ATTENTION)

    return made


def requests(temperature: float = 1.0) -> list[SequenceRequest]:
    rng = random.Random(0)
    return [
        SequenceRequest(
            f"r{number}",
            {name: [rng.randrange(300) for _ in range(rng.randint(1, 120))] for name, _ in KINDS},
            {"base": 1.0, "helpful": rng.choice([0.0, 0.7]), "harmless": -0.3, "other": 0.4},
            SamplingParams(30, temperature, seed=number, logprobs=5),
        )
        for number in range(12)
    ]


def outputs(family: Family, asked: list[SequenceRequest], **limits: Any) -> dict[str, list[TokenOutput]]:
    config = EngineConfig(prefill_chunk=32, **limits)
    engine = Engine(build_members(family, config), config)
    found: dict[str, list[TokenOutput]] = {one.id: [] for one in asked}
    engine.add(*asked)
    while engine.has_work:
        for output in engine.step():
            found[output.id].append(output)
    engine.check_integrity()
    if family.base.device.type == "cuda" and limits.get("cuda_graphs", True):
        for member in engine.members.values():
            assert isinstance(member.runner, PagedRunner)
            assert member.runner.graphs is not None
            assert member.runner.graphs.records, f"{member.name} is not recorded"
    return found


def test_tokens_and_log_probs_are_those_of_the_cpu(load: Load) -> None:
    expected = outputs(load(device="cpu", dtype="float32"), requests())
    got = outputs(load(device="cuda:0", dtype="float32"), requests())
    for name, theirs in expected.items():
        for ours, other in zip(got[name], theirs, strict=True):
            assert ours.token == other.token
            assert ours.logprobs is not None
            assert other.logprobs is not None
            assert ours.logprobs.logprob == pytest.approx(other.logprobs.logprob, abs=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recorded_steps_are_bit_equal_to_run_ones(load: Load, dtype: str) -> None:
    family = load(device="cuda:0", dtype=dtype)
    assert outputs(family, requests()) == outputs(family, requests(), cuda_graphs=False)


def test_pages_give_what_slabs_give(load: Load) -> None:
    family = load(device="cuda:0", dtype="float32")
    pages = outputs(family, requests(temperature=0.0))
    slabs = outputs(family, requests(temperature=0.0), cache="slabs", cuda_graphs=False)
    assert {name: [one.token for one in own] for name, own in pages.items()} == {
        name: [one.token for one in own] for name, own in slabs.items()
    }


def test_half_precision_is_within_its_rounding_of_the_cpu(load: Load) -> None:
    """The first token of every request: later ones read what was drawn."""
    expected = outputs(load(device="cpu", dtype="bfloat16"), requests(temperature=0.0))
    got = outputs(load(device="cuda:0", dtype="bfloat16"), requests(temperature=0.0))
    for name, theirs in expected.items():
        first, other = got[name][0].logprobs, theirs[0].logprobs
        assert first is not None
        assert other is not None
        assert first.top[0][1] == pytest.approx(other.top[0][1], abs=0.3)


def test_with_little_memory_every_answer_is_what_it_is_with_much(load: Load) -> None:
    family = load(device="cuda:0", dtype="float32")
    much, little = outputs(family, requests()), outputs(family, requests(), kv_tokens=512)
    assert {name: [one.token for one in own] for name, own in much.items()} == {
        name: [one.token for one in own] for name, own in little.items()
    }


def test_overlapped_steps_draw_what_steps_by_themselves_do(load: Load) -> None:
    family = load(device="cuda:0", dtype="float32")
    assert outputs(family, requests()) == outputs(family, requests(), overlap=False)


def test_decode_steps_wait_for_nothing(load: Load) -> None:
    """… until the tokens of the step before are asked for."""
    config = EngineConfig(prefill_chunk=32)
    engine = Engine(build_members(load(device="cuda:0", dtype="float32"), config), config)
    engine.add(*requests())
    for _ in range(12):  # every prompt is read, and every bucket recorded
        engine.step()
    settle = engine._settle

    def waits(drawn: Any) -> list[TokenOutput]:
        torch.cuda.set_sync_debug_mode("default")
        told = settle(drawn)
        torch.cuda.set_sync_debug_mode("error")
        return told

    engine._settle = waits  # type: ignore[method-assign]
    try:
        torch.cuda.set_sync_debug_mode("error")
        assert all(engine.step() for _ in range(5))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_forwards_are_timed_by_events_of_earlier_steps(load: Load) -> None:
    family, config = load(device="cuda:0", dtype="float32"), EngineConfig(prefill_chunk=32)
    engine = Engine(build_members(family, config), config)
    engine.generate(requests())
    torch.cuda.synchronize()
    engine.generate(requests()[:1])
    stats = engine.stats()
    assert stats.times is not None
    for name, forwards in stats.forwards.items():
        told = stats.times.forward_seconds[name]
        assert forwards - 3 <= told.count <= forwards  # those of the last steps are still to be looked at
        assert told.total > 0
    assert stats.times.overhead is not None
    assert stats.times.overhead > 0
