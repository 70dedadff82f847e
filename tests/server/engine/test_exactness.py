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
from server.engine.attention.hook import stock_attention
from server.engine.speculation.pace import Pace

END, LENGTH, SAMPLES, TEMPERATURE = 0, 5, 100_000, 1.4
MIX = {"base": 1.0, "helpful": 0.8, "harmless": -0.5}
PROMPTS = {"base": [1], "helpful": [3], "harmless": [2]}


@pytest.fixture(scope="module")
def tiny_world(make_checkpoint: Callable[..., Path]) -> Family:
    """Three models over five tokens, token 0 ends."""
    register_attention()
    words = {"<|end|>": 0, "a": 1, "b": 2, "c": 3, "d": 4}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="c")), eos_token="<|end|>"
    )
    sources = [
        ModelSource(name, str(make_checkpoint(kind, name, seed=seed, tokenizer=tokenizer, vocab_size=5)))
        for seed, (name, kind) in enumerate([("base", "llama"), ("helpful", "llama"), ("harmless", "gpt2")])
    ]
    return load_family(sources[0], sources[1:], attention=ATTENTION)


def every_response() -> Iterator[tuple[int, ...]]:
    """All responses: ended by token 0, or cut at LENGTH."""
    for length in range(1, LENGTH + 1):
        for body in itertools.product((1, 2, 3, 4), repeat=length - 1):
            yield (*body, END)
    yield from itertools.product((1, 2, 3, 4), repeat=LENGTH)


@torch.inference_mode()
def plain_tables(engine: Engine) -> dict[str, torch.Tensor]:
    """Per member, log π of stock transformers at each step of every full-length response: [4 ** LENGTH, LENGTH, 5]."""
    bodies = list(itertools.product((1, 2, 3, 4), repeat=LENGTH))
    tables = {}
    for name, member in engine.members.items():
        ids = torch.tensor([[*PROMPTS[name], *body] for body in bodies])
        with stock_attention(member.loaded.model):
            logits = member.loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        tables[name] = logits[:, len(PROMPTS[name]) - 1 : -1].double().log_softmax(-1)
    return tables


def probabilities(
    tables: Mapping[str, torch.Tensor], mix: Mapping[str, float], temperature: float
) -> dict[tuple[int, ...], float]:
    """Every response's probability: the product of softmax(Σ w · log π / T) over its steps."""
    steps = (sum(weight * tables[name] for name, weight in mix.items()) / temperature).log_softmax(-1)
    result = {}
    for response in every_response():
        full = [*response[:-1], *([1] * (LENGTH - len(response) + 1))] if response[-1] == END else [*response]
        row = sum((token - 1) * 4 ** (LENGTH - 1 - place) for place, token in enumerate(full))
        result[response] = float(steps[row, range(len(response)), list(response)].sum().exp())
    return result


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
@pytest.mark.parametrize(("speculation", "samples"), [("off", SAMPLES), ("auto", SAMPLES // 8)])
def test_sampled_responses_have_the_enumerated_probabilities(
    make_engine: Callable[..., Engine],
    tiny_world: Family,
    steady: Callable[..., Pace],
    speculation: str,
    samples: int,
) -> None:
    engine = make_engine(
        tiny_world, steady(3, seed=0), max_sequences=1000, max_step_tokens=8000, speculation=speculation
    )
    requests = (
        SequenceRequest(
            str(n), PROMPTS, MIX, SamplingParams(LENGTH, TEMPERATURE, seed=n, stop_token_ids=frozenset({END}))
        )
        for n in range(samples)
    )
    counts: Counter[tuple[int, ...]] = Counter()
    while batch := list(itertools.islice(requests, 4000)):
        counts.update(tuple(response) for response in engine.generate(batch).values())
    engine.check_integrity()
    assert (engine.stats().accepted_tokens > 0) == (speculation != "off")
    tables = plain_tables(engine)

    def p_under(mix: Mapping[str, float], temperature: float) -> float:
        expected = probabilities(tables, mix, temperature)
        assert sum(expected.values()) == pytest.approx(1, abs=1e-6)
        assert set(counts) <= set(expected)
        return chi_square_p([counts[one] for one in expected], [p * samples for p in expected.values()])

    assert p_under(MIX, TEMPERATURE) > 0.001
    assert p_under(MIX | {"harmless": 0.5}, TEMPERATURE) < 1e-9
    if samples == SAMPLES:  # too small differences for fewer
        assert p_under({"base": 1.0, "helpful": 0.8 / 1.1, "harmless": -0.5 / 1.1}, TEMPERATURE) < 1e-9
        assert p_under(MIX, TEMPERATURE * 1.05) < 1e-9
