"""The engine's promises: exact mixes, free zeros, rows that do not see each other, nothing leaked."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from arm_models.loading import Family, ModelSource, load_family
from server.engine import ATTENTION, Engine, SamplingParams, SequenceRequest, TokenOutput, register_attention

Reference = Callable[[Engine, Mapping[str, Sequence[int]], Mapping[str, float], Sequence[int]], torch.Tensor]
NAMES = ("base", "helpful", "harmless")


def prompts_of(seed: int, longest: int = 40) -> dict[str, list[int]]:
    """A prompt of its own length for every member, as different templates give."""
    rng = random.Random(seed)
    return {name: [rng.randrange(300) for _ in range(rng.randint(1, longest))] for name in NAMES}


def request(number: int, mix: Mapping[str, float], **sampling: Any) -> SequenceRequest:
    """Request ``number``: its prompts, seed and length follow from the number."""
    options: dict[str, Any] = {"max_tokens": 12, "seed": number, **sampling}
    return SequenceRequest(f"r{number}", prompts_of(number), mix, SamplingParams(**options))


def random_mix(rng: random.Random) -> dict[str, float]:
    return {"base": 1.0, "helpful": rng.choice([0, 0.7, -0.4]), "harmless": rng.choice([0, 0, 1.5])}


def run(engine: Engine, requests: Sequence[SequenceRequest]) -> dict[str, list[TokenOutput]]:
    """Every output by id."""
    outputs: dict[str, list[TokenOutput]] = {one.id: [] for one in requests}
    for one in requests:
        engine.add(one)
    while engine.has_work:
        for output in engine.step():
            outputs[output.id].append(output)
    engine.check_integrity()
    return outputs


def tokens_of(outputs: Sequence[TokenOutput]) -> list[int]:
    return [output.token for output in outputs]


@pytest.mark.parametrize("limits", [{}, {"prefill_chunk": 7, "max_step_tokens": 32}, {"kv_tokens": 256}])
def test_every_step_draws_from_the_plain_mix(
    make_engine: Callable[..., Engine], reference: Reference, limits: dict[str, int]
) -> None:
    rng = random.Random(0)
    engine = make_engine(**limits)
    requests = [
        request(number, random_mix(rng), logprobs=300, max_tokens=rng.randint(1, 50)) for number in range(10)
    ]
    outputs = run(engine, requests)
    if "kv_tokens" in limits:
        assert engine.stats().preemptions > 0
    for one in requests:
        expected = reference(engine, one.prompts, one.mix, tokens_of(outputs[one.id]))
        for row, output in zip(expected, outputs[one.id], strict=True):
            assert output.logprobs is not None
            got = torch.zeros(300, dtype=torch.double)
            for token, logprob in output.logprobs.top:
                got[token] = logprob
            assert (got - row).abs().max() < 1e-4
            assert output.logprobs.logprob == pytest.approx(row[output.token].item(), abs=1e-4)
