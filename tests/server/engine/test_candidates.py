"""Scored candidates: the formula on plain transformers forwards, in one forward a step, whoever shares the batch."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from arm_models.loading import Family, ModelSource, load_family
from server.engine import (
    ATTENTION,
    CandidateScoring,
    Engine,
    SamplingParams,
    SequenceRequest,
    TokenOutput,
    register_attention,
)
from tests.server.engine.shortage import Shortage
from tests.server.engine.transcript import Pairs

SCORERS = {"judge": "llama", "critic": "llama", "stock": "gpt2"}
both_caches = pytest.mark.parametrize("cache", ["slabs", "pages"])
"""Whatever lies in rows of slabs and in pages alike."""

Plain = Callable[[str, Sequence[int]], torch.Tensor]


@pytest.fixture(scope="module")
def paths(make_checkpoint: Callable[..., Path], make_scorer: Callable[..., Path]) -> dict[str, Path]:
    """A base and three scorers: two of one shape, which is the base's too, one that only transformers can run."""
    own = {name: make_scorer(kind, name, seed=seed) for seed, (name, kind) in enumerate(SCORERS.items(), 11)}
    return {"base": make_checkpoint("llama", "candidates-base", seed=1), **own}


@pytest.fixture(scope="module")
def judged(paths: dict[str, Path]) -> Family:
    register_attention()
    base, *scorers = [
        ModelSource(name, str(path), kind="causal" if name == "base" else "scalar")
        for name, path in paths.items()
    ]
    return load_family(base, scorers, attention=ATTENTION)


@pytest.fixture(scope="module")
def plain(paths: dict[str, Path]) -> Plain:
    """What transformers says without any of our code: next-token log-probs [vocab] of the base, the value [1] of a scorer."""
    base = AutoModelForCausalLM.from_pretrained(paths["base"]).eval()
    scorers = {
        name: AutoModelForSequenceClassification.from_pretrained(paths[name]).eval() for name in SCORERS
    }

    @torch.inference_mode()
    def say(name: str, tokens: Sequence[int]) -> torch.Tensor:
        ids = torch.tensor([list(tokens)])
        if name == "base":
            return base(input_ids=ids).logits[0, -1].double().log_softmax(-1)
        return scorers[name](input_ids=ids).logits[0].double()

    return say


def prompts_of(seed: int, longest: int = 40) -> dict[str, list[int]]:
    rng = random.Random(seed)
    return {name: [rng.randrange(300) for _ in range(rng.randint(1, longest))] for name in ("base", *SCORERS)}


def request(
    number: int, k: int, weights: Mapping[str, float], *, prompts: Any = None, **sampling: Any
) -> SequenceRequest:
    options: dict[str, Any] = {"max_tokens": 8, "seed": number, **sampling}
    return SequenceRequest(
        f"r{number}",
        prompts or prompts_of(number),
        {"base": 1.0},
        SamplingParams(**options),
        candidates=CandidateScoring(k, weights),
    )


def run(engine: Engine, *requests: SequenceRequest) -> dict[str, list[TokenOutput]]:
    engine.add(*requests)
    outputs: dict[str, list[TokenOutput]] = {one.id: [] for one in requests}
    while engine.has_work:
        for output in engine.step():
            outputs[output.id].append(output)
    engine.check_integrity()
    return outputs


def tokens(outputs: Sequence[TokenOutput]) -> list[int]:
    return [output.token for output in outputs]


def scored(plain: Plain, one: SequenceRequest, response: Sequence[int]) -> dict[int, float]:
    """The definition, a forward for each candidate: token → log π + Σ w · r."""
    assert one.candidates is not None
    log_probs = plain("base", [*one.prompts["base"], *response])
    values, best = log_probs.topk(one.candidates.k)
    scores = {}
    for token, score in zip(best.tolist(), values.tolist(), strict=True):
        for name, weight in one.candidates.weights.items():
            score += weight * float(plain(name, [*one.prompts[name], *response, token]))
        scores[token] = score
    return scores


@both_caches
@pytest.mark.parametrize("limits", [{}, {"prefill_chunk": 7, "max_step_tokens": 32}, {"deterministic": True}])
def test_every_step_draws_from_the_plain_scores(
    make_engine: Callable[..., Engine], judged: Family, plain: Plain, limits: dict[str, Any]
) -> None:
    """Fused and stock scorers, prompts of many lengths, many k and weights in one batch, some without candidates."""
    engine = make_engine(judged, **limits)
    rng = random.Random(0)
    choices: list[dict[str, float]] = [
        {"judge": 1.0},
        {"stock": -0.7},
        {"judge": 0.5, "critic": 2.0, "stock": 0.3},
        {"critic": 1.5, "judge": 0.0},
    ]
    requests = [
        request(
            number, rng.choice([1, 3, 10]), choices[number % 4], logprobs=20, max_tokens=rng.randint(1, 6)
        )
        for number in range(8)
    ]
    alone = replace(request(8, 3, {}), candidates=None)
    outputs = run(engine, *requests, alone)
    assert len(outputs["r8"]) == 8
    for one in requests:
        for step, output in enumerate(outputs[one.id]):
            scores = scored(plain, one, tokens(outputs[one.id][:step]))
            expected = dict(
                zip(scores, torch.tensor(list(scores.values())).log_softmax(-1).tolist(), strict=True)
            )
            assert output.logprobs is not None
            assert dict(output.logprobs.top) == pytest.approx(expected, abs=1e-4)
            assert output.logprobs.logprob == pytest.approx(expected[output.token], abs=1e-4)


@both_caches
def test_greedy_is_the_plain_loop_of_args(
    make_engine: Callable[..., Engine], judged: Family, plain: Plain
) -> None:
    one = request(3, 10, {"judge": 1.0}, temperature=0.0, max_tokens=12)
    response: list[int] = []
    for _ in range(12):
        scores = scored(plain, one, response)
        response.append(max(scores, key=scores.__getitem__))
    assert tokens(run(make_engine(judged), one)["r3"]) == response


def test_answers_to_one_prompt_are_drawn_as_the_scores_say(
    make_engine: Callable[..., Engine], judged: Family, plain: Plain
) -> None:
    """χ² of what 2,000 answers begin with; all but the first copy the prompt, the scorer's too."""
    prompts = prompts_of(5)
    engine = make_engine(judged, max_sequences=100, max_step_tokens=512, kv_tokens=64 * 220)
    count, drawn, second = 2000, Counter[int](), 0
    for start in range(0, count, 100):
        answers = [
            request(number, 6, {"judge": 0.4}, prompts=prompts, max_tokens=2)
            for number in range(start, start + 100)
        ]
        for outputs in run(engine, *answers).values():
            drawn[outputs[0].token] += 1
            second += len(outputs) == 2
    assert second == count
    expected = torch.tensor(
        list((scores := scored(plain, request(0, 6, {"judge": 0.4}, prompts=prompts), [])).values())
    )
    probabilities = expected.softmax(-1).tolist()
    assert set(drawn) <= set(scores)
    pairs = [(drawn[token], count * share) for token, share in zip(scores, probabilities, strict=True)]
    assert sum((got - want) ** 2 / want for got, want in pairs) < 20.5  # 5 degrees of freedom: 1 in 1,000


@both_caches
def test_answers_to_one_prompt_have_candidates_of_their_own(
    make_engine: Callable[..., Engine], judged: Family
) -> None:
    """Read once, and scored for each: as many as it asks for, and those that its bias leaves."""
    prompts = prompts_of(5)
    answers = [
        request(
            number,
            k,
            {"judge": 1.0, "stock": 0.5},
            prompts=prompts,
            logit_bias={number: 100.0},
            logprobs=9,
            temperature=0.0,
        )
        for number, k in enumerate([4, 4, 2, 4, 1, 2])
    ]
    together, single = make_engine(judged), make_engine(judged)
    outputs = run(together, *answers)
    assert together.stats().prompt_tokens_computed == len(prompts["base"])
    for one in answers:
        for got, alone in zip(outputs[one.id], run(single, one)[one.id], strict=True):
            assert got.logprobs is not None and alone.logprobs is not None
            assert dict(got.logprobs.top) == pytest.approx(dict(alone.logprobs.top), abs=1e-4)
            assert (got.token, len(got.logprobs.top)) == (alone.token, one.candidates and one.candidates.k)


def test_one_candidate_is_the_greedy_base_and_weight_zero_leaves_the_best_k(
    make_engine: Callable[..., Engine], judged: Family, plain: Plain
) -> None:
    engine = make_engine(judged)
    greedy = replace(request(1, 1, {}, temperature=0.0), candidates=None)
    expected = tokens(run(engine, greedy)["r1"])
    assert tokens(run(engine, request(1, 1, {"judge": 1.0}))["r1"]) == expected
    before = engine.stats()
    outputs = run(engine, request(2, 4, {"judge": 0.0}, logprobs=20))["r2"]
    assert [engine.stats().forwards[name] - before.forwards[name] for name in ("base", *SCORERS)] == [
        8,
        0,
        0,
        0,
    ]
    for step, output in enumerate(outputs):
        assert output.logprobs is not None
        best = plain("base", [*prompts_of(2)["base"], *tokens(outputs[:step])]).topk(4).indices
        assert {token for token, _ in output.logprobs.top} == set(best.tolist())


def test_a_step_is_one_forward_of_the_scorers(make_engine: Callable[..., Engine], judged: Family) -> None:
    """Of all sequences and both scorers of one shape, whatever else they read."""
    engine = make_engine(judged, prefill_chunk=16)
    runner = engine.members["judge"].runner
    assert engine.members["critic"].runner is runner
    assert engine.members["base"].runner is not runner
    calls, forward = [], runner.forward

    def count(*args: Any) -> Any:
        calls.append(args)
        return forward(*args)

    runner.forward = count  # type: ignore[method-assign]
    weights = {"judge": 1.0, "critic": 0.5}
    engine.add(*(request(number, 5, weights, max_tokens=20) for number in range(4)))
    for _ in range(5):
        engine.step()
    engine.add(request(9, 5, weights), replace(request(10, 5, {}), scores=("critic",), begun=[4, 5]))
    before, read, steps = engine.stats(), len(calls), 6
    for _ in range(steps):
        engine.step()
    assert len(calls) - read == steps
    for name in ("base", "judge", "critic"):
        assert engine.stats().forwards[name] - before.forwards[name] == steps
    assert engine.stats().forwards["stock"] == 0


def test_what_may_not_be_drawn_is_no_candidate(make_engine: Callable[..., Engine], judged: Family) -> None:
    engine = make_engine(judged)
    weights = {"judge": 1.0}
    grammar = replace(request(1, 4, weights, stop_token_ids=frozenset({0})), grammar=Pairs)
    biased = request(2, 3, weights, logit_bias={7: 100.0}, max_tokens=1)
    outputs = run(engine, grammar, biased, request(3, 2, weights, frequency_penalty=2.0, max_tokens=30))
    said = tokens(outputs["r1"])
    assert len(said) == 8 or said[-1] == 0
    assert all(50 <= token < 60 for token in said if token)
    assert tokens(outputs["r2"]) == [7]
    assert max(Counter(tokens(outputs["r3"])).values()) < 15


@both_caches
@pytest.mark.parametrize("deterministic", [False, True])
def test_an_answer_is_the_same_alone_and_among_others(
    make_engine: Callable[..., Engine], judged: Family, deterministic: bool
) -> None:
    limits: dict[str, Any] = {"prefill_chunk": 16, "kv_tokens": 512, "deterministic": deterministic}
    requests = [
        request(
            number, 1 + number % 5, {"judge": 0.6, "critic": float(number % 2)}, logprobs=3, max_tokens=30
        )
        for number in range(10)
    ]
    requests += [
        replace(one, id=f"n{seed}", sampling=replace(one.sampling, seed=seed))
        for seed, one in enumerate(requests[:1] * 3)
    ]
    crowd, alone = make_engine(judged, **limits), make_engine(judged, **limits)
    together = run(crowd, *requests)
    assert crowd.stats().preemptions > 0
    for one in requests[::3]:
        single = run(alone, one)[one.id]
        if deterministic:
            assert together[one.id] == single
        else:
            assert tokens(together[one.id]) == tokens(single)


def test_new_weights_hold_from_the_answered_token_on(
    make_engine: Callable[..., Engine], judged: Family
) -> None:
    engine = make_engine(judged)
    one = request(1, 6, {"judge": 1.0}, max_tokens=16)
    engine.add(one)
    said = [output.token for _ in range(5) for output in engine.step()]
    changed = CandidateScoring(4, {"critic": 2.0})
    assert engine.change_all(["r1"], {"base": 1.0}, candidates=changed) == {"r1": 5}
    assert "r1" not in engine.members["judge"].cache
    while engine.has_work:
        said += [output.token for output in engine.step()]
    assert len(said) == 16
    fresh = replace(one, id="fresh", begun=said[:5], candidates=changed)
    assert tokens(run(engine, fresh)["fresh"]) == said[5:]


@both_caches
def test_a_scorer_tells_the_value_of_what_has_begun(
    make_engine: Callable[..., Engine], judged: Family, plain: Plain
) -> None:
    engine = make_engine(judged, prefill_chunk=16, prefix_share=0.0)
    rng = random.Random(4)
    begun = [rng.randrange(300) for _ in range(30)]
    prompts = prompts_of(6)
    names = ("judge", "stock", "base")
    one = replace(request(6, 1, {}), scores=names, candidates=None)
    for number, (length, parent) in enumerate([(0, None), (20, None), (30, "n1"), (20, "n2"), (7, "n2")]):
        before = engine.stats().tokens["judge"]
        asked = replace(one, id=f"n{number}", begun=begun[:length], parent=parent, hold=True)
        (output,) = run(engine, asked)[asked.id]
        read = engine.stats().tokens["judge"] - before
        assert read == {None: len(prompts["judge"]) + length, "n1": 10, "n2": 1}[parent]
        assert output.scores is not None
        for name in ("judge", "stock"):
            expected = float(plain(name, [*prompts[name], *begun[:length]]))
            assert output.scores[name] == pytest.approx(expected, abs=1e-4)
    engine.release([f"n{number}" for number in range(5)])


def test_guessing_and_overlapping_change_no_token(make_engine: Callable[..., Engine], judged: Family) -> None:
    requests = [request(number, 5, {"judge": 1.0}, max_tokens=20) for number in range(3)]
    requests += [replace(request(number, 5, {}, max_tokens=20), candidates=None) for number in range(3, 6)]
    expected = {name: tokens(of_one) for name, of_one in run(make_engine(judged), *requests).items()}
    for limits in ({"speculation": "prompt"}, {"overlap": True}):
        assert {
            name: tokens(of) for name, of in run(make_engine(judged, **limits), *requests).items()
        } == expected


def test_aborts_leave_nothing_behind(make_engine: Callable[..., Engine], judged: Family) -> None:
    rng = random.Random(2)
    engine = make_engine(judged, kv_tokens=64 * 6, prefill_chunk=16, max_sequences=6)
    for number in range(40):
        engine.add(request(number, rng.randint(1, 6), {rng.choice(list(SCORERS)): 1.0}, max_tokens=30))
        for _ in range(rng.randint(0, 4)):
            engine.step()
        engine.abort(f"r{rng.randint(0, number)}")
    while engine.has_work:
        engine.step()
    engine.check_integrity()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"candidates": CandidateScoring(2, {"base": 1.0})},
            "candidates: 'base' is no scorer; there are judge, critic",
        ),
        ({"prompts": {"base": [1]}}, "candidates: judge is weighted in but has no prompt"),
        ({"mix": {"base": 1.0, "judge": 1.0}}, "mix: judge gives values"),
        ({"max_kl": 0.5}, "max_kl: candidates"),
    ],
)
def test_what_is_wrong_is_said(
    make_engine: Callable[..., Engine], judged: Family, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_engine(judged).add(replace(request(1, 2, {"judge": 1.0}), **changes))


@pytest.mark.parametrize(
    ("k", "weight", "message"), [(0, 1.0, "k must be"), (1, float("nan"), "the weight of judge")]
)
def test_a_scoring_out_of_range_is_refused(k: int, weight: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CandidateScoring(k, {"judge": weight})


def test_running_out_of_memory_changes_no_answer(make_engine: Callable[..., Engine], judged: Family) -> None:
    """Also between the base's forward and the scorers', and behind theirs."""
    weights = {"judge": 0.7, "critic": -0.4, "stock": 1.0}
    asked = [request(number, 3 + number, weights) for number in range(5)]
    limits: dict[str, Any] = {"deterministic": True, "prefill_chunk": 16}
    quiet = run(make_engine(judged, **limits), *asked)
    short = make_engine(judged, **limits)
    shortage = Shortage(short, random.Random(4), (40, 90))
    assert run(short, *asked) == quiet
    assert short.stats().memory_faults == shortage.hits.total() > 3
