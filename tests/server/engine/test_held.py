"""Responses that go on from others: the same tokens as from nothing, whatever is left of the parent; and nothing stays behind."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from server.engine import Engine, SamplingParams, SequenceRequest, TokenOutput

PROMPTS = {"base": list(range(20, 70)), "helpful": list(range(40)), "harmless": [7, 8, 9]}
MIX = {"base": 1.0, "helpful": 0.7, "harmless": -0.3}
both_caches = pytest.mark.parametrize("cache", ["slabs", "pages"])
"""Whatever lies in rows of slabs and in pages alike."""


def request(
    id: str, *, prompts: dict[str, list[int]] = PROMPTS, max_tokens: int = 12, **options: Any
) -> SequenceRequest:
    sampling = SamplingParams(max_tokens, seed=options.pop("seed", 3), logprobs=options.pop("logprobs", 2))
    return SequenceRequest(id, prompts, options.pop("mix", MIX), sampling, **options)


def run(engine: Engine, *requests: SequenceRequest) -> dict[str, list[TokenOutput]]:
    engine.add(*requests)
    outputs: dict[str, list[TokenOutput]] = {one.id: [] for one in requests}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.id, []).append(output)
    engine.check_integrity()
    return outputs


def tokens(outputs: Sequence[TokenOutput]) -> list[int]:
    return [output.token for output in outputs]


def computed(engine: Engine) -> int:
    return engine.stats().tokens["base"]


@both_caches
@pytest.mark.parametrize("limits", [{}, {"deterministic": True, "prefill_chunk": 16}])
def test_a_response_that_has_begun_goes_on_as_it_would_have(
    make_engine: Callable[..., Engine], limits: dict[str, Any]
) -> None:
    engine = make_engine(**limits)
    whole = run(engine, request("whole"))["whole"]
    rest = run(engine, request("rest", begun=tokens(whole)[:5]))["rest"]
    assert tokens(rest) == tokens(whole)[5:]
    assert [output.index for output in rest] == list(range(5, 12))
    if limits:
        assert [one.logprobs for one in rest] == [one.logprobs for one in whole[5:]]


def test_penalties_and_the_least_length_count_what_has_begun(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    sampling = SamplingParams(
        20, seed=1, frequency_penalty=0.4, min_tokens=9, stop_token_ids=frozenset({5, 6, 7})
    )
    one = SequenceRequest("whole", PROMPTS, MIX, sampling)
    whole = tokens(run(engine, one)["whole"])
    rest = run(engine, replace(one, id="rest", begun=whole[:6]))["rest"]
    assert tokens(rest) == whole[6:]


@both_caches
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_child_computes_only_what_its_parent_does_not_have(
    make_engine: Callable[..., Engine], deterministic: bool
) -> None:
    limits: dict[str, Any] = {"prefill_chunk": 16, "deterministic": deterministic, "prefix_share": 0.0}
    engine, other = make_engine(**limits), make_engine(**limits)
    parent = tokens(run(engine, request("parent", hold=True))["parent"])
    before = computed(engine)
    begun = [*parent[:6], 99]
    child = run(engine, request("child", begun=begun, parent="parent", seed=4))["child"]
    assert computed(engine) - before == 1 + len(child) - 1
    alone = run(other, request("child", begun=begun, seed=4))["child"]
    if deterministic:
        assert child == alone
    else:
        assert tokens(child) == tokens(alone)
    engine.release(["parent", "nobody"])
    assert all("parent" not in member.cache for member in engine.members.values())


@both_caches
def test_without_its_parent_a_child_is_computed_again(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(prefill_chunk=16, deterministic=True, kv_tokens=64 * 4, prefix_share=0.0)
    parent = tokens(run(engine, request("parent", hold=True))["parent"])
    child = request("child", begun=parent[:6], parent="parent", seed=4)
    expected = run(engine, child)["child"]

    def is_computed_again(one: SequenceRequest) -> bool:
        before = computed(engine)
        assert run(engine, one)["child"] == expected
        return computed(engine) - before == len(PROMPTS["base"]) + 6 + len(expected) - 1

    assert not is_computed_again(child)
    assert is_computed_again(replace(child, parent="nobody"))
    assert is_computed_again(replace(child, salt="another"))
    long = {name: [5] * 200 for name in PROMPTS}
    run(engine, request("hungry", prompts=long, max_tokens=30))
    assert all("parent" not in member.cache for member in engine.members.values())
    assert is_computed_again(child)
    engine.release(["parent"])


@both_caches
def test_of_another_prompt_only_whole_chunks_are_exact(make_engine: Callable[..., Engine]) -> None:
    """What the parent computed as a response the child has as its prompt."""
    limits: dict[str, Any] = {"prefill_chunk": 16, "deterministic": True, "prefix_share": 0.0}
    engine = make_engine(**limits)
    parent = tokens(run(engine, request("parent", hold=True))["parent"])
    longer = {name: [*prompt, *parent[:6]] for name, prompt in PROMPTS.items()}
    before = computed(engine)
    child = run(engine, request("child", prompts=longer, parent="parent"))["child"]
    assert computed(engine) - before == 50 + 6 - 48 + len(child) - 1
    assert child == run(make_engine(**limits), request("child", prompts=longer))["child"]


def test_a_child_may_copy_from_a_parent_that_is_under_way(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(prefix_share=0.0)
    engine.add(request("parent"))
    got = [output.token for _ in range(5) for output in engine.step()]
    before = computed(engine)
    engine.add(request("child", begun=got[:3], parent="parent", seed=9))
    for _ in range(3):
        engine.step()
    # Three steps of both; the child has no prompt to read.
    assert computed(engine) - before == 3 * 2
    run(engine)


@both_caches
def test_scores_are_the_log_probs_of_what_has_begun(
    make_engine: Callable[..., Engine], reference: Callable[..., Any]
) -> None:
    engine = make_engine(prefill_chunk=16)
    rng = random.Random(5)
    responses = [[rng.randrange(300) for _ in range(length)] for length in (0, 1, 2, 30)]
    read = [
        request(f"read{number}", begun=response, scores=("base", "harmless"), max_tokens=1, logprobs=None)
        for number, response in enumerate(responses)
    ]
    outputs = run(engine, *read, request("drawn"))
    assert len(outputs["drawn"]) == 12
    for number, response in enumerate(responses):
        (output,) = outputs[f"read{number}"]
        assert (output.token, output.index, output.finish_reason) == (-1, len(response), "length")
        assert output.scores is not None
        for name, score in output.scores.items():
            rows = reference(engine, PROMPTS, {name: 1.0}, response)
            expected = sum(float(row[token]) for row, token in zip(rows, response, strict=True))
            assert score == pytest.approx(expected, abs=1e-4)
        assert list(output.scores) == ["base", "harmless"]


@both_caches
@pytest.mark.parametrize("deterministic", [False, True])
def test_scores_go_on_from_those_of_a_parent(make_engine: Callable[..., Engine], deterministic: bool) -> None:
    engine = make_engine(prefill_chunk=16, deterministic=deterministic, prefix_share=0.0)
    response = [random.Random(6).randrange(300) for _ in range(25)]
    names = ("base", "harmless")
    run(engine, request("half", begun=response[:20], scores=names, hold=True))
    for name, begun in {
        "on": response,
        "same": response[:20],
        "back": response[:4],
        "other": [*response[:4], 9, 9],
    }.items():
        before = computed(engine)
        (child,) = run(engine, request(name, begun=begun, scores=names, parent="half"))[name]
        assert computed(engine) - before == {"on": 6, "same": 1, "back": 1, "other": 3}[name]
        (alone,) = run(engine, request("alone", begun=begun, scores=names))["alone"]
        assert child.scores == pytest.approx(alone.scores, abs=1e-5)
    engine.release(["half"])


@both_caches
@pytest.mark.parametrize("kv_tokens", [64 * 200, 64 * 7])
def test_random_forks_and_aborts_leave_nothing_behind(
    make_engine: Callable[..., Engine], kv_tokens: int
) -> None:
    rng = random.Random(kv_tokens)
    engine = make_engine(kv_tokens=kv_tokens, max_sequences=8, prefill_chunk=16, max_step_tokens=64)
    known: dict[str, tuple[dict[str, list[int]], list[int]]] = {}
    asked: dict[str, SequenceRequest] = {}
    for number in range(250):
        parent = rng.choice([*known, "nobody"])
        prompts, said = known.get(parent, (PROMPTS, []))
        if rng.random() < 0.2:
            prompts = {name: prompt[: rng.randint(1, len(prompt))] for name, prompt in prompts.items()}
        begun = said[: rng.randint(0, min(len(said), 20))]
        scores = rng.choice([(), (), ("base",), ("helpful", "harmless")])
        one = request(
            f"n{number}",
            prompts=prompts,
            max_tokens=len(begun) + rng.randint(1, 6),
            begun=begun,
            parent=parent,
            hold=rng.random() < 0.5,
            scores=scores,
            mix=rng.choice([MIX, {"base": 1.0}]),
            logprobs=None,
        )
        asked[one.id] = one
        said = list(begun)
        known[one.id] = prompts, said
        engine.add(one)
        for _ in range(rng.randint(0, 3)):
            for output in engine.step():
                if output.token >= 0:
                    known[output.id][1].append(output.token)
        if rng.random() < 0.2:
            engine.abort(rng.choice(list(known)))
        if rng.random() < 0.3:
            engine.release([rng.choice(list(known))])
        if number % 10 == 0:
            engine.check_integrity()
    while engine.has_work:
        engine.step()
    engine.release(list(known))
    engine.check_integrity()
    for member in engine.members.values():
        for name in known:
            assert name not in member.cache


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"begun": [1, 2], "max_tokens": 2}, "max_tokens counts the 2 tokens of begun"),
        ({"begun": [300]}, "begun has a token outside the vocabulary of 300"),
        ({"scores": ("nobody",)}, "scores: there is no member 'nobody'"),
        ({"scores": ("base", "base")}, "scores: a member is named twice"),
        ({"scores": ("base",), "begun": [1] * 300}, "begun has 300"),
    ],
)
def test_what_is_wrong_is_said(
    make_engine: Callable[..., Engine], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_engine().add(request("a", **changes))


def test_the_id_of_a_held_response_is_taken_until_it_is_released(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    run(engine, request("a", hold=True))
    with pytest.raises(ValueError, match="under way or held"):
        engine.add(request("a"))
    engine.release(["a"])
    run(engine, request("a"))
    engine.add(request("b", hold=True))
    engine.release(["b"])  # under way: it will not be held
    run(engine)
    run(engine, request("b"))
