"""Several answers to one prompt: it is read once, and every answer is what it would be on its own."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from server.engine import Engine, SamplingParams, SequenceRequest, TokenOutput

PROMPTS = {"base": list(range(20, 70)), "helpful": list(range(40)), "harmless": [7, 8, 9]}
MIX = {"base": 1.0, "helpful": 0.7, "harmless": -0.3}
both_caches = pytest.mark.parametrize("cache", ["slabs", "pages"])
"""Whatever lies in rows of slabs and in pages alike."""


def answers(count: int, prompts: dict[str, list[int]] = PROMPTS, **sampling: Any) -> list[SequenceRequest]:
    options: dict[str, Any] = {"max_tokens": 12, "logprobs": 4, **sampling}
    return [
        SequenceRequest(f"a{seed}", prompts, MIX, SamplingParams(seed=seed, **options))
        for seed in range(count)
    ]


def run(engine: Engine) -> dict[str, list[TokenOutput]]:
    outputs: dict[str, list[TokenOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.id, []).append(output)
    engine.check_integrity()
    return outputs


def alone(engine: Engine, requests: Sequence[SequenceRequest]) -> dict[str, list[TokenOutput]]:
    outputs: dict[str, list[TokenOutput]] = {}
    for one in requests:
        engine.add(one)
        outputs |= run(engine)
    return outputs


def test_the_prompt_is_read_once_and_the_answers_differ(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(prefill_chunk=16)
    engine.add(*answers(8))
    outputs = run(engine)
    assert engine.stats().prompt_tokens_computed == len(PROMPTS["base"])
    assert len({tuple(output.token for output in one) for one in outputs.values()}) == 8


@both_caches
def test_every_answer_is_bit_for_bit_what_it_is_alone(make_engine: Callable[..., Engine]) -> None:
    limits: dict[str, Any] = {"prefill_chunk": 16, "deterministic": True}
    together = make_engine(**limits)
    together.add(*answers(8))
    assert run(together) == alone(make_engine(**limits), answers(8))


@both_caches
@pytest.mark.parametrize("limits", [{"max_sequences": 3}, {"kv_tokens": 64 * 5}, {"kv_tokens": 64 * 2}])
def test_without_room_for_all_the_rest_follows_later(
    make_engine: Callable[..., Engine], limits: dict[str, int]
) -> None:
    options: dict[str, Any] = {"prefill_chunk": 16, "deterministic": True}
    # Of different lengths, so that one that comes later finds another running.
    requests = [
        replace(one, sampling=replace(one.sampling, max_tokens=9 + 7 * n)) for n, one in enumerate(answers(8))
    ]
    together = make_engine(**options, **limits)
    together.add(*requests)
    outputs = run(together)
    assert outputs == alone(make_engine(**options), requests)
    if "max_sequences" in limits:
        # Each that came later copied three chunks of 16 from a running one and read the last two tokens itself.
        assert together.stats().prompt_tokens_computed <= 50 + 5 * 2


def test_when_the_first_is_aborted_another_reads(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(prefill_chunk=16)
    engine.add(*answers(4))
    engine.step()
    assert engine.abort("a0")[0].finish_reason == "abort"
    outputs = run(engine)
    assert sorted(outputs) == ["a1", "a2", "a3"]
    expected = alone(make_engine(prefill_chunk=16), answers(4))
    for name, tokens in outputs.items():
        assert [output.token for output in tokens] == [output.token for output in expected[name]]


def test_new_weights_before_the_first_token_hold_for_all(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(prefill_chunk=16)
    engine.add(*answers(4))
    engine.step()
    mix = {"base": 1.0, "harmless": 2.0}
    assert engine.change_all(["a0", "a1", "a2", "a3", "gone"], mix) == dict.fromkeys(
        ["a0", "a1", "a2", "a3"], 0
    )
    outputs = run(engine)
    fresh = [SequenceRequest(one.id, PROMPTS, mix, one.sampling) for one in answers(4)]
    expected = alone(make_engine(prefill_chunk=16), fresh)
    for name, tokens in outputs.items():
        assert [output.token for output in tokens] == [output.token for output in expected[name]]


def test_one_whose_weights_need_another_model_reads_for_itself(make_engine: Callable[..., Engine]) -> None:
    first, second, third = answers(3)
    plain = SequenceRequest(first.id, PROMPTS, {"base": 1.0}, first.sampling)
    engine = make_engine(prefill_chunk=16)
    engine.add(plain, second, third)
    outputs = run(engine)
    expected = alone(make_engine(prefill_chunk=16), [plain, second, third])
    for name, tokens in outputs.items():
        assert [output.token for output in tokens] == [output.token for output in expected[name]]


def test_equal_prompts_of_different_requests_do_not_wait_for_each_other(
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine(prefill_chunk=64)
    first, second = answers(2)
    engine.add(first)
    engine.add(second)
    assert {output.id for output in engine.step()} == {"a0", "a1"}


def test_one_refused_request_of_a_call_refuses_them_all(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    first, second, _ = answers(3)
    with pytest.raises(ValueError, match="twice"):
        engine.add(first, second, first)
    with pytest.raises(ValueError, match="reads at most"):
        engine.add(first, SequenceRequest("long", PROMPTS, MIX, SamplingParams(10_000)))
    assert not engine.has_work
