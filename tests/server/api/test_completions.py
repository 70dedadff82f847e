"""Completions: prompts in every form, their echo with log-probs, the best of several, streamed as whole."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

LM_EVAL: dict[str, Any] = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}


def ids(server: Any, text: str) -> list[int]:
    return list(server.serving.runtime.tokenizer.codec.encode(text, add_special_tokens=False))


def good(response: Any) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def joined(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The choices that a stream adds up to, by index."""
    found: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for part in chunk["choices"]:
            whole = found.setdefault(
                part["index"], {**part, "text": "", "logprobs": None, "finish_reason": None}
            )
            whole["text"] += part["text"]
            assert whole["finish_reason"] is None
            whole["finish_reason"] = part["finish_reason"]
            if part["logprobs"] is not None:
                whole["logprobs"] = whole["logprobs"] or {key: [] for key in part["logprobs"]}
                for key, values in part["logprobs"].items():
                    whole["logprobs"][key] += values
    return [found[index] for index in sorted(found)]


def test_a_response_has_openais_shape_and_our_guidance(real: Any) -> None:
    body = good(real.complete("the kettle", seed=1, ignore_eos=True))
    assert body["id"].startswith("cmpl-")
    assert body["object"] == "text_completion"
    (choice,) = body["choices"]
    assert set(choice) == {"index", "text", "logprobs", "finish_reason"}
    assert (choice["logprobs"], choice["finish_reason"]) == (None, "length")
    assert body["usage"] == {
        "prompt_tokens": len(ids(real, "the kettle")),
        "completion_tokens": 16,  # OpenAI's default
        "total_tokens": len(ids(real, "the kettle")) + 16,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    assert body["guidance"]["preferences"] == {"helpful": 1.0, "harmless": 0.5}


def test_text_and_its_token_ids_are_the_same_prompt(real: Any) -> None:
    text, tokens = "the kettle", ids(real, "the kettle")
    fields: dict[str, Any] = {"seed": 1, "max_tokens": 10}
    answer = good(real.complete(text, **fields))["choices"][0]["text"]
    for prompt in ([text], tokens, [tokens]):
        assert good(real.complete(prompt, **fields))["choices"][0]["text"] == answer


def test_every_member_reads_the_prompt_as_it_is(scripted: Callable[..., Any]) -> None:
    with scripted() as server:
        server.engine.free()
        server.complete([5, 6, 7])
        (request,) = server.engine.requests.values()
        assert dict(request.prompts) == dict.fromkeys(("base", "helpful", "harmless"), (5, 6, 7))


def test_several_prompts_are_answered_in_order_each_as_alone(real: Any, alike: Any) -> None:
    prompts = ["the kettle", "never mix", "a"]
    fields: dict[str, Any] = {"seed": 3, "max_tokens": 6, "n": 2, "logprobs": 1, "echo": True}
    together = good(real.complete(prompts, **fields))
    assert [choice["index"] for choice in together["choices"]] == list(range(6))
    for number, prompt in enumerate(prompts):
        alone = good(real.complete(prompt, **fields))
        for one, other in zip(alone["choices"], together["choices"][2 * number :], strict=False):
            assert alike({**other, "index": one["index"]}, one)
    assert together["usage"]["prompt_tokens"] == sum(len(ids(real, prompt)) for prompt in prompts)
    assert together["usage"]["completion_tokens"] == 36


def test_without_a_seed_equal_prompts_are_drawn_differently(real: Any) -> None:
    choices = good(real.complete(["the kettle"] * 3, ignore_eos=True))["choices"]
    assert len({choice["text"] for choice in choices}) > 1


def test_the_space_between_prompt_and_answer_is_the_answers(scripted: Callable[..., Any]) -> None:
    with scripted(" word") as server:
        server.engine.free()
        body = good(server.complete("a", max_tokens=len(server.engine.script), echo=True))
        assert body["choices"][0]["text"] == "a word"


@pytest.mark.parametrize("model", ["tiny:plain", "tiny:kind"])
def test_what_lm_eval_reads_is_what_plain_forwards_give(real: Any, declared: Any, model: str) -> None:
    """Its request to the letter: log-probs of the prompt's tokens and the greedy flag, under a preset's weights."""
    from transformers import AutoModelForCausalLM

    tokens = ids(real, "how do I clean the oven? first let it cool")
    body = good(real.complete([tokens], model=model, **LM_EVAL))
    logprobs = body["choices"][0]["logprobs"]
    weights = {"tiny:plain": {}, "tiny:kind": {"harmless": 2.0}}[model]
    paths = {reward["name"]: reward["model"] for reward in declared["rewards"]}
    sources = [(declared["base"]["model"], 1.0), *((paths[name], weight) for name, weight in weights.items())]
    mixed = torch.zeros(1)
    with torch.inference_mode():
        for path, weight in sources:
            reader = AutoModelForCausalLM.from_pretrained(path)
            mixed = mixed + weight * reader(torch.tensor([tokens])).logits[0].log_softmax(-1)
    expected = mixed.log_softmax(-1)
    assert len(logprobs["token_logprobs"]) == len(tokens) + 1
    assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
    for place in range(1, len(tokens)):
        own, top = logprobs["token_logprobs"][place], logprobs["top_logprobs"][place]
        row = expected[place - 1]
        assert own == pytest.approx(row[tokens[place]].item(), abs=1e-4)
        assert max(top.values()) == pytest.approx(row.max().item(), abs=1e-4)
        assert (own == max(top.values())) == (row.argmax().item() == tokens[place])


def test_the_greedy_flag_is_exact_float_equality(real: Any) -> None:
    tokens = ids(real, "the kettle")
    said = good(real.complete(tokens, temperature=0, max_tokens=8, return_token_ids=True, ignore_eos=True))
    whole = [*tokens, *said["choices"][0]["token_ids"]]
    logprobs = good(real.complete([whole], **LM_EVAL))["choices"][0]["logprobs"]
    flags = [
        own == max(top.values())
        for own, top in list(zip(logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True))[1:]
    ]
    assert all(flags[len(tokens) - 1 :])
    assert not all(flags[: len(tokens) - 1])


def test_an_end_of_text_token_has_its_entry_though_it_is_not_shown(scripted: Callable[..., Any]) -> None:
    with scripted("<|end|>") as server:
        server.engine.free()
        tokens = ids(server, "the kettle")
        (choice,) = good(server.complete([tokens], **LM_EVAL))["choices"]
        assert choice["finish_reason"] == "stop"
        assert choice["text"] == "the kettle"
        assert len(choice["logprobs"]["token_logprobs"]) == len(tokens) + 1
        assert choice["logprobs"]["tokens"][-1] == "<|end|>"
        assert choice["logprobs"]["text_offset"][-1] == len("the kettle")


def test_an_echo_without_an_answer(real: Any, alike: Any) -> None:
    body = good(real.complete("the kettle", echo=True, max_tokens=0))
    assert body["choices"] == [
        {"index": 0, "text": "the kettle", "logprobs": None, "finish_reason": "length"}
    ]
    assert body["usage"]["completion_tokens"] == 0
    scored = good(real.complete("the kettle", echo=True, max_tokens=0, logprobs=2))["choices"][0]
    assert len(scored["logprobs"]["tokens"]) == body["usage"]["prompt_tokens"]
    longer = good(real.complete("the kettle", echo=True, max_tokens=1, logprobs=2))["choices"][0]
    assert alike(scored["logprobs"]["token_logprobs"], longer["logprobs"]["token_logprobs"][:-1])
    assert alike(joined(real.stream_completion("the kettle", echo=True, max_tokens=0, logprobs=2)), [scored])


def test_offsets_point_at_the_tokens_of_the_text(scripted: Callable[..., Any]) -> None:
    with scripted("né 👍 word") as server:
        server.engine.free()
        fields = {"echo": True, "logprobs": 0, "max_tokens": len(server.engine.script)}
        (choice,) = good(server.complete("the kettle é", **fields))["choices"]
    logprobs, text = choice["logprobs"], choice["text"]
    assert text == "the kettle éné 👍 word"
    broken = {offset: "\ufffd" in token for token, offset in _placed(logprobs)}
    assert [text[offset] for offset in broken if broken[offset]] == ["é", "é", "👍"]
    for token, offset in _placed(logprobs):
        assert broken[offset] or text[offset:].startswith(token)


def _placed(logprobs: dict[str, Any]) -> list[tuple[str, int]]:
    return list(zip(logprobs["tokens"], logprobs["text_offset"], strict=True))


def test_the_token_itself_is_always_among_the_top(real: Any) -> None:
    for count in (0, 1, 20):
        (choice,) = good(real.complete("a", seed=1, max_tokens=8, logprobs=count))["choices"]
        logprobs = choice["logprobs"]
        for token, own, top in zip(
            logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
        ):
            assert top[token] >= own  # of two tokens with one text, the likelier
            assert len(top) <= count + 1


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 1},
        {"seed": 2, "echo": True},
        {"seed": 3, "logprobs": 3, "echo": True, "n": 3},
        {"seed": 4, "prompt": ["a", "the kettle is"], "logprobs": 0, "n": 2},
        {"seed": 5, "logprobs": 2, "stop": ["a", "e", "t"], "n": 4},
        {"seed": 6, "logprobs": 2, "stop": ["a", "e"], "include_stop_str_in_output": True, "min_tokens": 4},
        {"seed": 7, "temperature": 0, "echo": True, "logprobs": 1, "max_tokens": 0},
        {"seed": 8, "logit_bias": {"0": 5}, "logprobs": 1, "n": 4},
        {"seed": 9, "presence_penalty": 1, "frequency_penalty": 1, "repetition_penalty": 1.3},
        {"seed": 10, "model": "tiny:kind", "guidance": {"report": "tokens"}, "n": 2},
        {"seed": 11, "return_token_ids": True, "n": 2, "ignore_eos": True},
    ],
)
def test_streamed_and_whole_are_the_same_answers(real: Any, alike: Any, fields: dict[str, Any]) -> None:
    fields = {"prompt": "the kettle", "max_tokens": 20, **fields}
    whole = good(real.complete(**fields))
    chunks = real.stream_completion(**fields, stream_options={"include_usage": True})
    last = chunks.pop()
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert all(chunk["usage"] is None for chunk in chunks)
    streamed = joined(chunks)
    assert len(streamed) == len(whole["choices"])
    for one, other in zip(streamed, whole["choices"], strict=True):
        for key in ("index", "text", "logprobs", "finish_reason"):
            assert alike(one[key], other[key]), key
    for index, choice in enumerate(whole["choices"]):
        parts = [part for chunk in chunks for part in chunk["choices"] if part["index"] == index]
        for key in ("token_ids", "guidance"):
            if key in choice:
                expected = choice[key] if key == "token_ids" else choice[key]["tokens"]
                lists = [part[key] if key == "token_ids" else part[key]["tokens"] for part in parts]
                assert alike([item for items in lists for item in items], expected)
    assert alike([chunk["guidance"] for chunk in chunks if "guidance" in chunk], [whole["guidance"]])
    assert "guidance" in chunks[-1]


def test_prompt_token_ids_come_once_per_choice(real: Any) -> None:
    tokens = ids(real, "the kettle")
    chunks = real.stream_completion("the kettle", n=2, max_tokens=4, return_token_ids=True, ignore_eos=True)
    for index in range(2):
        parts = [part for chunk in chunks for part in chunk["choices"] if part["index"] == index]
        assert [part.get("prompt_token_ids") for part in parts] == [tokens] + [None] * (len(parts) - 1)


def test_best_of_gives_the_likeliest_of_several(real: Any) -> None:
    fields: dict[str, Any] = {"seed": 5, "max_tokens": 6, "ignore_eos": True, "logprobs": 0}
    every = good(real.complete("the kettle", n=5, **fields))
    best = good(real.complete("the kettle", n=2, best_of=5, **fields))

    def mean(choice: dict[str, Any]) -> float:
        values = choice["logprobs"]["token_logprobs"]
        return float(sum(values) / len(values))

    ranked = sorted(every["choices"], key=mean, reverse=True)
    assert [choice["text"] for choice in best["choices"]] == [choice["text"] for choice in ranked[:2]]
    assert [choice["index"] for choice in best["choices"]] == [0, 1]
    assert best["usage"]["completion_tokens"] == 30  # what was made for it
    del fields["logprobs"]
    quiet = good(real.complete("the kettle", n=2, best_of=5, **fields))
    assert [choice["text"] for choice in quiet["choices"]] == [choice["text"] for choice in ranked[:2]]
    assert quiet["choices"][0]["logprobs"] is None


def test_best_of_as_many_as_asked_for_is_nothing_special(real: Any) -> None:
    fields: dict[str, Any] = {"seed": 5, "max_tokens": 6, "n": 2}
    plain = good(real.complete("the kettle", **fields))["choices"]
    assert good(real.complete("the kettle", best_of=2, **fields))["choices"] == plain
    assert joined(real.stream_completion("the kettle", best_of=2, **fields)) == plain


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt[0]"),
    ({"prompt": [[5], []]}, "prompt[1]"),
    ({"prompt": ["a", 5]}, "prompt[1]"),
    ({"prompt": [5, "a"]}, "prompt[1]"),
    ({"prompt": [[5], "a"]}, "prompt[1]"),
    ({"prompt": [None]}, "prompt[0]"),
    ({"prompt": [True]}, "prompt[0]"),
    ({"prompt": [1.5]}, "prompt[0]"),
    ({"prompt": {"a": 1}}, "prompt"),
    ({"prompt": [-1]}, "prompt[0]"),
    ({"prompt": [5, 300]}, "prompt[1]"),
    ({"prompt": [[5], [6, 300]]}, "prompt[1][1]"),
    ({"prompt": [10**40]}, "prompt[0]"),
    ({"prompt": ["a"] * 17}, "prompt"),
    ({"prompt": ["a"] * 5000}, "prompt"),
    ({"prompt": ["a"] * 6, "n": 3}, "n"),
    ({"prompt": "a" * 100_000}, "prompt"),
    ({"prompt": [5] * 250}, "prompt"),
    ({"prompt": [5] * 2_000}, "prompt"),
    ({"max_tokens": 1000}, "prompt"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"suffix": "b"}, "suffix"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": -1}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"echo": "yes"}, "echo"),
    ({"n": 129}, "n"),
    ({"n": 17}, "n"),
    ({"best_of": 1, "n": 2}, "best_of"),
    ({"best_of": 0}, "best_of"),
    ({"best_of": 17}, "best_of"),
    ({"best_of": 10**9}, "best_of"),
    ({"best_of": 2, "stream": True}, "best_of"),
    ({"messages": []}, "messages"),
    ({"max_completion_tokens": 5}, "max_completion_tokens"),
    ({"logit_bias": {"x": 1}}, "logit_bias.x"),
    ({"stop_token_ids": [300]}, "stop_token_ids[0]"),
    ({"guidance": {"report": "no"}}, "guidance.report"),
]


@pytest.mark.parametrize(
    ("fields", "param"), REFUSED, ids=[f"{param}-{index}" for index, (_, param) in enumerate(REFUSED)]
)
def test_a_wrong_field_is_named(real: Any, fields: dict[str, Any], param: str) -> None:
    response = real.complete(**{"prompt": "a", "max_tokens": 10, **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert len(response.content) < 1500
    assert "suffix" not in fields or error["code"] == "not_offered"


def test_an_overflow_names_the_three_lengths(real: Any) -> None:
    error = real.complete([5] * 100, max_tokens=200).json()["error"]
    assert error["code"] == "context_length_exceeded"
    for length in ("256", "100 in the prompt", "200 in the completion"):
        assert length in error["message"]


def test_suffix_null_and_other_neutral_values_are_accepted(real: Any) -> None:
    neutral = {"suffix": None, "best_of": None, "echo": False, "logprobs": None, "n": None, "user": "u"}
    assert real.complete("a", max_tokens=2, **neutral).status_code == 200


def test_a_running_completion_can_be_seen_changed_and_cancelled_under_its_own_path(
    scripted: Callable[..., Any], until: Any
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with scripted("abc ") as server, ThreadPoolExecutor(1) as pool, server.client() as client:
        pending = pool.submit(server.complete, "a", max_tokens=50)
        server.engine.allow(3)
        until(lambda: server.engine.requests)
        id = next(iter(server.engine.requests)).removesuffix("/0")
        assert id.startswith("cmpl-")
        url = f"/v1/completions/{id}"
        until(lambda: client.get(url).json().get("tokens") == 3)
        assert client.get(url).json()["object"] == "text_completion.state"
        assert client.get(f"/v1/chat/completions/{id}").status_code == 404
        changed = client.patch(url, json={"preferences": {"helpful": 2}}).json()
        assert (changed["object"], changed["at_token"]) == ("text_completion.change", 3)
        assert client.delete(url).json() == {"id": id, "object": "text_completion.deleted", "deleted": True}
        body = pending.result().json()
        assert body["guidance"]["cancelled"] is True
        assert body["usage"]["completion_tokens"] == 3
