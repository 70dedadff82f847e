"""Bias, masks and penalties are what the formulas say, on the whole vocabulary, and nobody else's row is touched."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from server.engine import Engine, SamplingParams, SequenceRequest
from server.engine.sampling.penalties import History, adjust

PROMPT = [5, 9, 9, 200, 17]


def plain(
    logits: torch.Tensor, sampling: SamplingParams, prompt: Sequence[int], response: Sequence[int]
) -> torch.Tensor:
    """The definition, one token of the vocabulary at a time."""
    counts, result = Counter(response), logits.clone()
    for token in range(len(logits)):
        z = result[token] + sampling.logit_bias.get(token, 0.0)
        if len(response) < sampling.min_tokens and token in sampling.stop_token_ids:
            z = torch.tensor(-torch.inf)
        z = z - (counts[token] > 0) * sampling.presence_penalty - counts[token] * sampling.frequency_penalty
        if token in counts or token in prompt:
            z = z / sampling.repetition_penalty if z > 0 else z * sampling.repetition_penalty
        result[token] = z
    return result


SETTINGS: list[dict[str, Any]] = [
    {"logit_bias": {3: 5.0, 299: -100.0}},
    {"presence_penalty": 1.5},
    {"frequency_penalty": -0.7},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.6},
    {"min_tokens": 9, "stop_token_ids": frozenset({0, 4})},
    {
        "logit_bias": {5: 2.0, 17: -1.0},
        "presence_penalty": -1.0,
        "frequency_penalty": 0.3,
        "repetition_penalty": 1.2,
        "min_tokens": 9,
        "stop_token_ids": frozenset({0}),
    },
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_row_is_changed_as_the_formulas_say(settings: dict[str, Any]) -> None:
    sampling = SamplingParams(20, **settings)
    logits = torch.randn(300, generator=torch.Generator().manual_seed(0)) * 4
    response = [7, 5, 7, 7, 250]
    history = History(PROMPT)
    for token in response:
        history.append(token)
    changed = logits.clone()
    adjust(changed, sampling, len(response), history if sampling.penalizes else None, None)
    torch.testing.assert_close(changed, plain(logits, sampling, PROMPT, response), rtol=0, atol=1e-5)


def test_what_a_grammar_rules_out_cannot_be_brought_back_by_bias() -> None:
    allowed = torch.zeros(300, dtype=torch.bool)
    allowed[[4, 8]] = True
    logits = torch.zeros(300)
    adjust(logits, SamplingParams(5, logit_bias={3: 100.0}), 0, None, allowed)
    assert logits.isfinite().nonzero()[:, 0].tolist() == [4, 8]


def test_a_stop_token_may_be_the_one_behind_min_tokens() -> None:
    sampling = SamplingParams(9, min_tokens=3, stop_token_ids=frozenset({0, 7}))
    for drawn, allowed in ((2, False), (3, True)):
        logits = torch.zeros(300)
        adjust(logits, sampling, drawn, None, None)
        assert bool(logits[[0, 7]].isfinite().all()) is allowed


def test_a_stop_token_waits_for_min_tokens_unless_a_grammar_allows_nothing_else() -> None:
    sampling = SamplingParams(5, min_tokens=3, stop_token_ids=frozenset({0}))
    allowed = torch.zeros(300, dtype=torch.bool)
    allowed[0] = True
    only_stop = torch.zeros(300)
    adjust(only_stop, sampling, 0, None, allowed)
    assert only_stop.isfinite().nonzero()[:, 0].tolist() == [0]
    allowed[4] = True
    with_another = torch.zeros(300)
    adjust(with_another, sampling, 0, None, allowed)
    assert with_another.isfinite().nonzero()[:, 0].tolist() == [4]


@pytest.mark.parametrize("settings", SETTINGS)
def test_greedy_tokens_are_those_of_the_plain_reference_step_by_step(
    make_engine: Callable[..., Engine], settings: dict[str, Any]
) -> None:
    engine = make_engine()
    mix = {"base": 1.0, "helpful": 0.8}
    prompts = {"base": PROMPT, "helpful": [1, 2, 3]}
    sampling = SamplingParams(16, temperature=0.0, **settings)
    # A neighbour without settings shares the batch and is not to notice.
    neighbour = SequenceRequest("n", prompts, mix, SamplingParams(16, temperature=0.0))
    alone = engine.generate([neighbour])["n"]
    responses = engine.generate([SequenceRequest("r", prompts, mix, sampling), neighbour])
    assert responses["n"] == alone
    response = responses["r"]
    raw = raw_mix(engine, prompts, mix, response)
    for index, token in enumerate(response):
        row = plain(raw[index], sampling, PROMPT, response[:index])
        assert row[token] >= row.max() - 1e-4


@torch.inference_mode()
def raw_mix(
    engine: Engine, prompts: dict[str, list[int]], mix: dict[str, float], response: Sequence[int]
) -> torch.Tensor:
    """Σ w · z of the raw logits, whose signs the repetition penalty looks at."""
    from server.engine.attention.hook import stock_attention

    total = torch.zeros(len(response), 300)
    for name, weight in mix.items():
        model = engine.members[name].loaded.model
        ids = torch.tensor([[*prompts[name], *response]])
        with stock_attention(model):
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
        total += weight * logits[len(prompts[name]) - 1 : -1, :300].float()
    return total


def test_log_probs_are_of_the_mix_before_bias_and_penalties(
    make_engine: Callable[..., Engine], reference: Callable[..., torch.Tensor]
) -> None:
    engine = make_engine()
    prompts, mix = {"base": PROMPT, "helpful": [1, 2, 3]}, {"base": 1.0, "helpful": 0.8}
    sampling = SamplingParams(
        8, temperature=0.3, logit_bias={42: 100.0}, presence_penalty=2.0, repetition_penalty=2.0, logprobs=300
    )
    engine.add(SequenceRequest("r", prompts, mix, sampling))
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    assert [output.token for output in outputs] == [42] * 8
    expected = reference(engine, prompts, mix, [42] * 8)
    for row, output in zip(expected, outputs, strict=True):
        assert output.logprobs is not None
        assert output.logprobs.logprob == pytest.approx(row[42].item(), abs=1e-4)


def test_a_token_outside_the_vocabulary_is_refused(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    for settings in (
        {"logit_bias": {300: 1.0}},
        {"logit_bias": {-1: 1.0}},
        {"stop_token_ids": frozenset({300})},
    ):
        sampling = SamplingParams(5, **settings)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="outside the vocabulary of 300"):
            engine.add(SequenceRequest("r", {"base": [1]}, {"base": 1.0}, sampling))


@pytest.mark.parametrize(
    "settings",
    [
        {"min_tokens": -1},
        {"logit_bias": {1: float("nan")}},
        {"presence_penalty": float("inf")},
        {"frequency_penalty": float("nan")},
        {"repetition_penalty": 0.0},
        {"prompt_logprobs": -1},
        {"max_tokens": 0},
    ],
)
def test_values_out_of_range_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        SamplingParams(**{"max_tokens": 5, **settings})
