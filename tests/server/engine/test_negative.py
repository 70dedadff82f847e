"""The base's second lane: the same weights, other prompts, nothing shared but the memory of the weights."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch

from arm_models.loading import Family, ModelSource, load_family
from server.engine import ATTENTION, Engine, SamplingParams, SequenceRequest, TokenOutput, register_attention
from server.engine.assembly import NEGATIVE

PROMPTS = {"base": [7, 8, 9, 10, 11], NEGATIVE: [30, 31], "helpful": [40, 41, 42]}
MIX = {"base": 1.8, NEGATIVE: -0.8, "helpful": 0.5}


@pytest.fixture(scope="module", params=["own rewards", "adapters", "stock base"])
def relatives(
    request: pytest.FixtureRequest, make_checkpoint: Callable[..., Path], make_adapter: Callable[..., Path]
) -> Family:
    """Where the base can stand: in a fused forward, under its own adapters, or run by transformers."""
    register_attention()
    base = make_checkpoint("gpt2" if request.param == "stock base" else "llama", "negative-base", seed=1)
    if request.param == "adapters":
        reward = make_adapter(base, "negative-adapter", 5)
    else:
        reward = make_checkpoint("llama", "negative-reward", seed=2)
    return load_family(
        ModelSource("base", str(base)), [ModelSource("helpful", str(reward))], attention=ATTENTION
    )


def requests(count: int) -> list[SequenceRequest]:
    """Each with its own prompts."""
    return [
        SequenceRequest(
            f"r{number}",
            {name: [*prompt, *range(50, 50 + 9 * number)] for name, prompt in PROMPTS.items()},
            MIX,
            SamplingParams(10, seed=number, logprobs=0),
        )
        for number in range(count)
    ]


def run(engine: Engine, asked: Sequence[SequenceRequest]) -> Mapping[str, list[TokenOutput]]:
    outputs: dict[str, list[TokenOutput]] = {one.id: [] for one in asked}
    for one in asked:
        engine.add(one)
    while engine.has_work:
        for output in engine.step():
            outputs[output.id].append(output)
    engine.check_integrity()
    return outputs


@pytest.mark.parametrize("cache", ["slabs", "pages"])
def test_the_base_may_be_led_away_from_what_it_says_of_another_prompt(
    make_engine: Callable[..., Engine], relatives: Family, reference: Callable[..., torch.Tensor]
) -> None:
    engine = make_engine(relatives, negative=True, prefill_chunk=16)
    assert list(engine.members) == ["base", "helpful", NEGATIVE]
    asked = requests(3)
    for one, outputs in zip(asked, run(engine, asked).values(), strict=True):
        tokens = [output.token for output in outputs]
        rows = reference(engine, one.prompts, one.mix, tokens)
        for row, output in zip(rows, outputs, strict=True):
            assert output.logprobs is not None
            assert output.logprobs.logprob == pytest.approx(row[output.token].item(), abs=1e-4)


def test_with_the_same_prompt_the_second_lane_is_the_base(
    make_engine: Callable[..., Engine], relatives: Family
) -> None:
    engine = make_engine(relatives, negative=True)
    sampling = SamplingParams(8, seed=3, logprobs=3)
    prompts = {"base": [1, 2, 3], NEGATIVE: [1, 2, 3]}
    alone = run(engine, [SequenceRequest("r", prompts, {"base": 1.0}, sampling)])
    assert run(engine, [SequenceRequest("r", prompts, {NEGATIVE: 1.0}, sampling)]) == alone
    assert engine.members[NEGATIVE].loaded.model is engine.members["base"].loaded.model


def test_it_is_deterministic_where_the_others_are(
    make_engine: Callable[..., Engine], relatives: Family
) -> None:
    together = make_engine(relatives, negative=True, deterministic=True)
    alone = make_engine(relatives, negative=True, deterministic=True)
    asked = requests(4)
    expected = {one.id: run(alone, [one])[one.id] for one in asked}
    assert run(together, asked) == expected


def test_nobody_pays_for_it_unasked(make_engine: Callable[..., Engine], relatives: Family) -> None:
    assert NEGATIVE not in make_engine(relatives).members
    engine = make_engine(
        relatives, negative=True, cpu_cache_bytes=4 << 20, max_sequences=1000, max_step_tokens=1000
    )
    plain = make_engine(relatives, cpu_cache_bytes=4 << 20, max_sequences=1000, max_step_tokens=1000)
    blocks, own = (sum(m.cache.num_blocks for m in one.members.values()) for one in (plain, engine))
    assert (
        own <= blocks * 1.5
        and engine.members["base"].cache.num_blocks < plain.members["base"].cache.num_blocks
    )
