"""What a request asks of the draw reaches the engine as it was sent, and holds."""

from collections.abc import Callable
from typing import Any

import pytest


def only(server: Any) -> Any:
    (request,) = server.engine.requests.values()
    return request


def ids(response: Any) -> list[int]:
    assert response.status_code == 200, response.text
    found: list[int] = response.json()["choices"][0]["token_ids"]
    return found


def test_every_field_of_the_draw_reaches_the_engine(scripted: Callable[..., Any]) -> None:
    with scripted() as server:
        server.engine.free()
        response = server.chat(
            max_tokens=9,
            min_tokens=2,
            logit_bias={"5": -100, "299": 0.5},
            presence_penalty=-2,
            frequency_penalty=2,
            repetition_penalty=1.5,
            logprobs=True,
            top_logprobs=3,
            guidance={"report": "summary", "max_kl": 0.5},
            seed=5,
        )
        assert response.status_code == 200, response.text
        sampling = only(server).sampling
        assert (sampling.max_tokens, sampling.min_tokens, sampling.seed) == (9, 2, 5)
        assert dict(sampling.logit_bias) == {5: -100.0, 299: 0.5}
        assert (sampling.presence_penalty, sampling.frequency_penalty) == (-2.0, 2.0)
        assert sampling.repetition_penalty == 1.5
        assert (sampling.logprobs, sampling.prompt_logprobs) == (3, None)
        assert only(server).report is True
        assert only(server).max_kl == 0.5


def test_what_is_not_asked_for_is_off(scripted: Callable[..., Any]) -> None:
    with scripted() as server:
        server.engine.free()
        server.chat(max_tokens=1, logprobs=None, logit_bias=None, repetition_penalty=None, min_tokens=None)
        sampling = only(server).sampling
        assert (sampling.min_tokens, dict(sampling.logit_bias), sampling.logprobs) == (0, {}, None)
        assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.0, 0.0)
        assert sampling.repetition_penalty == 1.0
        assert (only(server).report, only(server).max_kl, only(server).grammar) == (False, None, None)


def test_a_bias_forces_and_forbids_tokens(real: Any) -> None:
    fields: dict[str, Any] = {"max_tokens": 5, "seed": 1, "return_token_ids": True, "ignore_eos": True}
    assert ids(real.chat(logit_bias={"70": 100}, **fields)) == [70] * 5
    free = ids(real.chat(**fields))
    forbidden = ids(real.chat(logit_bias={str(token): -100 for token in free}, **fields))
    assert not set(free) & set(forbidden)


def test_penalties_change_a_greedy_answer_that_repeats_itself(real: Any) -> None:
    fields: dict[str, Any] = {
        "max_tokens": 30,
        "temperature": 0,
        "return_token_ids": True,
        "ignore_eos": True,
    }
    plain = ids(real.chat(**fields))
    for name, value in (("frequency_penalty", 2), ("presence_penalty", 2), ("repetition_penalty", 50)):
        punished = ids(real.chat(**fields, **{name: value}))
        assert len(set(punished)) > len(set(plain)), name


def test_nothing_stops_before_min_tokens(real: Any) -> None:
    ends = {"logit_bias": {"0": 100}, "max_tokens": 20, "return_token_ids": True, "seed": 1}
    assert ids(real.chat(**ends)) == [0]
    assert len(ids(real.chat(min_tokens=7, **ends))) == 8
    body = real.chat(min_tokens=7, **ends).json()
    assert body["choices"][0]["finish_reason"] == "stop"
    full = real.chat(min_tokens=20, **ends).json()
    assert (len(full["choices"][0]["token_ids"]), full["choices"][0]["finish_reason"]) == (20, "length")


def test_stop_strings_do_not_count_before_min_tokens_either(scripted: Callable[..., Any]) -> None:
    with scripted("ab") as server:
        server.engine.free()
        fields: dict[str, Any] = {"stop": "b", "max_tokens": 20}
        usage = server.chat(**fields).json()["usage"]
        assert usage["completion_tokens"] == 2
        body = server.chat(min_tokens=5, **fields).json()
        assert body["usage"]["completion_tokens"] == 6
        assert body["choices"][0]["message"]["content"] == "ababa"


def test_min_tokens_is_refused_where_the_answer_has_no_room_for_it(real: Any) -> None:
    error = real.chat(min_tokens=240).json()["error"]
    assert error["param"] == "min_tokens"
    assert real.complete("a", min_tokens=20, ignore_eos=True).json()["usage"]["completion_tokens"] == 20


def test_the_stop_string_is_included_when_asked_for(scripted: Callable[..., Any]) -> None:
    with scripted("hello world ") as server:
        server.engine.free()
        fields: dict[str, Any] = {"max_tokens": 50, "stop": ["wor"], "include_stop_str_in_output": True}
        assert server.chat(**fields).json()["choices"][0]["message"]["content"] == "hello wor"
        token = server.engine.script[-1]
        last = server.chat(max_tokens=50, stop_token_ids=[token], include_stop_str_in_output=True).json()
        assert last["choices"][0]["message"]["content"] == "hello world "
        assert last["choices"][0]["finish_reason"] == "stop"


def test_token_ids_are_those_of_the_text(real: Any) -> None:
    body = real.chat(max_tokens=10, seed=1, return_token_ids=True, ignore_eos=True).json()
    tokenizer = real.serving.runtime.tokenizer
    assert body["prompt_token_ids"] == list(tokenizer.prompts([{"role": "user", "content": "hello"}])["base"])
    assert tokenizer.decode(body["choices"][0]["token_ids"]) == body["choices"][0]["message"]["content"]


@pytest.mark.parametrize("content", ["First, le", "é", "wait <"])
def test_the_last_message_is_gone_on_with_in_every_members_own_template(real: Any, content: str) -> None:
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": content}]
    fields: dict[str, Any] = {
        "messages": chat,
        "continue_final_message": True,
        "max_tokens": 3,
        "return_token_ids": True,
    }
    body = real.chat(**fields).json()
    tokenizer = real.serving.runtime.tokenizer
    shown = tokenizer.codec.decode(body["prompt_token_ids"])
    assert shown == f"<|user|>hello<|end|><|assistant|>{content}"
    prompts = tokenizer.prompts(chat, continue_final_message=True)
    assert tokenizer.decode(prompts["harmless"]).endswith(f"assistant says {content}")
    assert real.chat(**fields, add_generation_prompt=False).status_code == 200


def test_without_a_generation_prompt_the_model_has_to_find_its_turn_itself(real: Any) -> None:
    body = real.chat(add_generation_prompt=False, max_tokens=1, return_token_ids=True).json()
    shown = real.serving.runtime.tokenizer.codec.decode(body["prompt_token_ids"])
    assert shown == "<|user|>hello<|end|>"
