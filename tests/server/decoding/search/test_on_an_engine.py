"""Searches on a real engine of tiny models: the same as their definition computed from plain forwards, on shared caches."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from arm_models.loading import Family, ModelSource, load_family
from server.decoding.search import (
    Answer,
    BestOfN,
    Chat,
    Darwin,
    Roles,
    SearchRequest,
    Task,
    TransferQ,
    run_searches,
)
from server.decoding.search.task import candidate_seed
from server.engine import (
    ATTENTION,
    Engine,
    EngineConfig,
    SamplingParams,
    SequenceRequest,
    build_members,
    register_attention,
)

PROMPT = tuple((7 * place) % 290 + 5 for place in range(40))
OTHER = tuple((5 * place) % 290 + 5 for place in range(23))
PROMPTS = {"base": PROMPT, "helpful": OTHER, "harmless": PROMPT, "judge": OTHER}
ROLES = Roles({"base": 1.0}, {"helpful": 0.75, "harmless": -0.5})
ENDS = frozenset({0})


@pytest.fixture(scope="module")
def judge(make_scorer: Callable[..., Path]) -> Path:
    return make_scorer("qwen3", "search-judge", seed=5)


@pytest.fixture(scope="module")
def models(make_checkpoint: Callable[..., Path], judge: Path) -> Family:
    register_attention()
    return load_family(
        ModelSource("base", str(make_checkpoint("llama", "search-base", seed=1))),
        [
            ModelSource("helpful", str(make_checkpoint("llama", "search-helpful", seed=2))),
            ModelSource("harmless", str(make_checkpoint("qwen3", "search-harmless", seed=3))),
            ModelSource("judge", str(judge), kind="scalar"),
        ],
        attention=ATTENTION,
    )


@pytest.fixture
def engine(models: Family) -> Engine:
    config = EngineConfig(prefill_chunk=16)
    return Engine(build_members(models, config), config)


def task(method: Any, sampling: SamplingParams, roles: Roles = ROLES, **parameters: Any) -> Task:
    return Task(
        prompts=PROMPTS,
        sampling=sampling,
        parameters=method.Parameters(**parameters),
        roles=roles,
        max_context={"base": 256, "helpful": 256, "harmless": 256},
        chat=Chat([{"role": "user", "content": "words"}], lambda tokens: " ".join(map(str, tokens))),
    )


def search(
    engine: Engine, method: Any, sampling: SamplingParams, roles: Roles = ROLES, **parameters: Any
) -> Answer:
    """One search; afterwards every block is free."""
    asked = SearchRequest("s", method, task(method, sampling, roles, **parameters), lambda _: PROMPTS)
    (answer,) = run_searches(engine, [asked])
    idle(engine)
    return answer


def idle(engine: Engine) -> None:
    assert not engine.has_work
    engine.check_integrity()


def plain(engine: Engine, sampling: SamplingParams) -> list[int]:
    """The tokens of an ordinary request."""
    return engine.generate([SequenceRequest("plain", PROMPTS, {"base": 1.0}, sampling)])["plain"]


def log_probs(engine: Engine, member: str, text: Sequence[int]) -> torch.Tensor:
    """[len(text) + 1, vocab] of a plain forward: what the member says behind its prompt and each token."""
    prompt = PROMPTS[member]
    return engine.members[member].plain_log_probs([*prompt, *text])[len(prompt) - 1 :]


def reward(engine: Engine, text: Sequence[int]) -> float:
    """Σ α log π of the whole text."""
    return sum(
        weight * float(sum(log_probs(engine, member, text)[place, token] for place, token in enumerate(text)))
        for member, weight in ROLES.score.items()
    )


def test_best_of_n_keeps_the_best_of_ordinary_answers(engine: Engine) -> None:
    sampling = SamplingParams(10, seed=4, stop_token_ids=ENDS)
    answer = search(engine, BestOfN(), sampling, n_candidates=5)
    drawn = [plain(engine, replace(sampling, seed=candidate_seed(4, number))) for number in range(5)]
    scores = [reward(engine, text) for text in drawn]
    best = max(range(5), key=scores.__getitem__)
    assert list(answer.text.tokens) == drawn[best]
    assert answer.score == pytest.approx(scores[best], abs=1e-3)
    assert answer.cost.generated_tokens == sum(map(len, drawn))


@torch.inference_mode()
def test_a_scorers_value_is_of_its_own_prompt_and_the_response(engine: Engine, judge: Path) -> None:
    sampling = SamplingParams(10, seed=4, stop_token_ids=ENDS)
    judged = Roles({"base": 1.0}, {"judge": 1.0})
    answer = search(engine, BestOfN(), sampling, judged, n_candidates=4)
    model = AutoModelForSequenceClassification.from_pretrained(judge).eval()
    drawn = [plain(engine, replace(sampling, seed=candidate_seed(4, number))) for number in range(4)]
    values = [float(model(input_ids=torch.tensor([[*OTHER, *text]])).logits) for text in drawn]
    assert list(answer.text.tokens) == drawn[max(range(4), key=values.__getitem__)]
    assert answer.score == pytest.approx(max(values), abs=1e-4)


def test_a_scorer_reads_only_what_a_text_has_gained(engine: Engine) -> None:
    """Its prompt once; of each beam every token once, but for a last one that is read again and copies that diverge."""
    judged = Roles({"base": 1.0}, {"judge": 1.0})
    keys = {"iterations": 1, "mutations": 2, "mutate": False, "replace": False}
    search(engine, Darwin(), SamplingParams(24, seed=4), judged, **keys)
    whole = engine.stats().tokens["judge"]
    before = whole
    search(engine, Darwin(), SamplingParams(24, seed=4), judged, **{**keys, "replace": True}, m=6, keep=2)
    assert whole <= len(OTHER) + 2 * 24
    assert engine.stats().tokens["judge"] - before <= len(OTHER) + 2 * (24 + 4)


def test_what_was_evicted_is_computed_again_with_the_same_result(models: Family) -> None:
    sampling = SamplingParams(40, seed=2, stop_token_ids=ENDS)
    keys = {"iterations": 1, "mutations": 4, "m": 8, "keep": 2}
    found = []
    for limits in ({}, {"kv_tokens": 256, "max_sequences": 2}):
        config = EngineConfig(prefill_chunk=16, **limits)
        found.append(search(Engine(build_members(models, config), config), Darwin(), sampling, **keys))
    assert found[0].text.tokens == found[1].text.tokens


def test_a_prompt_is_computed_once_whoever_is_drawn_behind_it(engine: Engine) -> None:
    search(engine, BestOfN(), SamplingParams(6, seed=4), n_candidates=6)
    assert engine.stats().prompt_tokens_computed == len(PROMPT)


def test_scores_share_the_prompt_and_candidates_share_beams(engine: Engine) -> None:
    """Each reward reads its prompt once, and then the tokens that are scored."""
    answer = search(engine, BestOfN(), SamplingParams(6, seed=4), n_candidates=6)
    computed = engine.stats().tokens
    assert computed["helpful"] <= len(OTHER) + answer.cost.scored_tokens + 6
    assert computed["base"] <= len(PROMPT) + answer.cost.generated_tokens


def test_transfer_q_takes_the_token_that_plain_forwards_say(engine: Engine) -> None:
    k, w, ahead, length = 4, 0.8, 3, 5

    def greedy(text: list[int], until: int) -> list[int]:
        while len(text) < until and text[-1] not in ENDS:
            text = [*text, int(log_probs(engine, "base", text)[-1].argmax())]
        return text

    expected: list[int] = []
    while len(expected) < length and not (expected and expected[-1] in ENDS):
        values, tokens = log_probs(engine, "base", expected)[-1].topk(k)
        until = min(len(expected) + 1 + ahead, length)
        rolled = [greedy([*expected, int(token)], until) for token in tokens]
        scores = [float(value) + w * reward(engine, text) for value, text in zip(values, rolled, strict=True)]
        expected.append(int(tokens[max(range(k), key=scores.__getitem__)]))

    sampling = SamplingParams(length, temperature=0.0, stop_token_ids=ENDS)
    answer = search(engine, TransferQ(), sampling, k=k, w=w, rollout_tokens=ahead)
    assert list(answer.text.tokens) == expected


def test_transfer_q_without_reward_over_the_whole_vocabulary_is_plain_sampling(engine: Engine) -> None:
    sampling = SamplingParams(12, temperature=0.9, seed=8, stop_token_ids=ENDS)
    answer = search(engine, TransferQ(), sampling, k=300, w=0.0)
    assert list(answer.text.tokens) == plain(engine, sampling)


def test_transfer_q_reads_the_prompt_once(engine: Engine) -> None:
    search(engine, TransferQ(), SamplingParams(4, seed=1), k=3, rollout_tokens=2)
    assert engine.stats().prompt_tokens_computed == len(PROMPT)


@pytest.mark.parametrize("replace", [False, True])
def test_darwin_with_one_beam_and_no_rewriting_is_plain_sampling(engine: Engine, replace: bool) -> None:
    """Also where it stops every m tokens to compare its one beam."""
    sampling = SamplingParams(20, seed=6, stop_token_ids=ENDS)
    answer = search(engine, Darwin(), sampling, iterations=1, mutations=1, mutate=False, replace=replace, m=7)
    assert list(answer.text.tokens) == plain(engine, sampling)


def test_darwin_runs_whole_and_its_score_is_the_answers(engine: Engine) -> None:
    sampling = SamplingParams(16, seed=2, stop_token_ids=ENDS)
    answer = search(engine, Darwin(), sampling, iterations=2, mutations=3, m=5, keep=1)
    assert answer.score == pytest.approx(reward(engine, answer.text.tokens), abs=1e-3)


def test_many_searches_at_once_find_what_each_finds_alone(engine: Engine) -> None:
    sampling = SamplingParams(8, seed=3, stop_token_ids=ENDS)
    methods: list[tuple[Any, dict[str, Any]]] = [
        (BestOfN(), {"n_candidates": 3}),
        (Darwin(), {"iterations": 1, "mutations": 3, "m": 3, "keep": 1}),
        (TransferQ(), {"k": 3, "rollout_tokens": 2}),
    ]
    requests = [
        SearchRequest(str(number), method, task(method, sampling, **parameters), lambda _: PROMPTS)
        for number, (method, parameters) in enumerate(methods)
    ]
    heard: list[Answer] = []
    together = run_searches(engine, requests, heard.append)
    idle(engine)
    alone = [run_searches(engine, [one])[0] for one in requests]
    assert [one.text.tokens for one in together] == [one.text.tokens for one in alone]
    assert sorted(map(id, heard)) == sorted(map(id, together))


def test_a_search_that_fails_leaves_the_engine_idle(engine: Engine) -> None:
    def broken(_: Any) -> Any:
        raise RuntimeError("no template")

    sampling = SamplingParams(8, seed=3)
    asked = [
        SearchRequest("a", BestOfN(), task(BestOfN(), sampling), None),
        SearchRequest("b", Darwin(), task(Darwin(), sampling), broken),
    ]
    with pytest.raises(RuntimeError, match="no template"):
        run_searches(engine, asked)
    idle(engine)
