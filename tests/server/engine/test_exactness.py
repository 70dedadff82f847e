"""Whole responses have the probability that the formula gives them: shown by enumeration."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from arm_models.loading import Family, ModelSource, load_family
from server.engine import ATTENTION, Engine, SamplingParams, SequenceRequest, register_attention

END, LENGTH, SAMPLES, TEMPERATURE = 0, 5, 100_000, 1.4
MIX = {"base": 1.0, "helpful": 0.8, "harmless": -0.5}
PROMPTS = {"base": [1, 2], "helpful": [3], "harmless": [2, 2, 1]}

Reference = Callable[[Engine, Mapping[str, Sequence[int]], Mapping[str, float], Sequence[int]], torch.Tensor]


@pytest.fixture(scope="module")
def tiny_world(make_checkpoint: Callable[..., Path]) -> Family:
    """Three models over four tokens, token 0 ends."""
    register_attention()
    words = {"<|end|>": 0, "a": 1, "b": 2, "c": 3}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="c")), eos_token="<|end|>"
    )
    sources = [
        ModelSource(name, str(make_checkpoint(kind, name, seed=seed, tokenizer=tokenizer, vocab_size=4)))
        for seed, (name, kind) in enumerate([("base", "llama"), ("helpful", "llama"), ("harmless", "gpt2")])
    ]
    return load_family(sources[0], sources[1:], attention=ATTENTION)


def every_response() -> Iterator[tuple[int, ...]]:
    """All responses: ended by token 0, or cut at LENGTH."""
    for length in range(1, LENGTH + 1):
        for body in itertools.product((1, 2, 3), repeat=length - 1):
            yield (*body, END)
    yield from itertools.product((1, 2, 3), repeat=LENGTH)


def probability(
    engine: Engine,
    reference: Reference,
    mix: Mapping[str, float],
    temperature: float,
    response: Sequence[int],
) -> float:
    steps = (reference(engine, PROMPTS, mix, response) / temperature).log_softmax(-1)
    return float(steps[range(len(response)), list(response)].sum().exp())


def chi_square_p(observed: Sequence[int], expected: Sequence[float]) -> float:
    """p-value of Pearson's test; cells expected fewer than 5 times are pooled."""
    pairs = list(zip(observed, expected, strict=True))
    cells = [pair for pair in pairs if pair[1] >= 5]
    rare = [pair for pair in pairs if pair[1] < 5]
    if rare:
        cells.append((sum(o for o, _ in rare), sum(e for _, e in rare)))
    statistic = sum((o - e) ** 2 / e for o, e in cells)
    half = torch.tensor([(len(cells) - 1) / 2, statistic / 2], dtype=torch.double)
    return float(torch.special.gammaincc(half[0], half[1]))


@pytest.mark.slow
def test_sampled_responses_have_the_enumerated_probabilities(
    make_engine: Callable[..., Engine], tiny_world: Family, reference: Reference
) -> None:
    engine = make_engine(tiny_world, max_sequences=1000, max_step_tokens=8000)
    requests = (
        SequenceRequest(
            str(n), PROMPTS, MIX, SamplingParams(LENGTH, TEMPERATURE, seed=n, stop_token_ids=frozenset({END}))
        )
        for n in range(SAMPLES)
    )
    counts: Counter[tuple[int, ...]] = Counter()
    while batch := list(itertools.islice(requests, 4000)):
        counts.update(tuple(response) for response in engine.generate(batch).values())
    engine.check_integrity()
    responses = list(every_response())
    assert set(counts) <= set(responses)

    def p_under(mix: Mapping[str, float], temperature: float) -> float:
        expected = [SAMPLES * probability(engine, reference, mix, temperature, one) for one in responses]
        assert sum(expected) == pytest.approx(SAMPLES, rel=1e-4)
        return chi_square_p([counts[one] for one in responses], expected)

    assert p_under(MIX, TEMPERATURE) > 0.001
    assert p_under(MIX | {"harmless": 0.5}, TEMPERATURE) < 1e-9
    assert p_under({"base": 1.0, "helpful": 0.8 / 1.1, "harmless": -0.5 / 1.1}, TEMPERATURE) < 1e-9
    assert p_under(MIX, TEMPERATURE * 1.05) < 1e-9
