"""Chat completions: the order of a stream, the same answer streamed and not, sampling and guidance as asked."""

from collections.abc import Callable
from typing import Any

import pytest

USAGE = {"include_usage": True}


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def content(response: Any) -> str:
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def test_a_response_has_openais_shape_and_our_guidance(real: Any) -> None:
    body = real.chat(max_tokens=4, seed=1, ignore_eos=True).json()
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert body["model"] == "tiny"
    assert body["system_fingerprint"].startswith("fp_")
    (choice,) = body["choices"]
    assert set(choice) == {"index", "message", "logprobs", "finish_reason"}
    assert set(choice["message"]) == {"role", "content", "refusal"}
    assert choice["finish_reason"] == "length"
    usage = body["usage"]
    assert usage["completion_tokens"] == 4
    assert usage["total_tokens"] == usage["prompt_tokens"] + 4
    assert body["guidance"] == {
        "method": "genarm",
        "preferences": {"helpful": 1.0, "harmless": 0.5},
        "beta": 1.0,
        "changes": [],
        "cancelled": False,
    }


def test_a_stream_comes_in_the_promised_order(real: Any) -> None:
    chunks = real.stream(max_tokens=6, seed=1, ignore_eos=True, stream_options=USAGE)
    assert chunks[0]["choices"] == [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": "", "refusal": None},
            "logprobs": None,
            "finish_reason": None,
        }
    ]
    for chunk in chunks[1:-2]:
        (choice,) = chunk["choices"]
        assert set(choice["delta"]) == {"content"}
        assert choice["delta"]["content"]
        assert choice["finish_reason"] is None
        assert "guidance" not in chunk
    assert chunks[-2]["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]
    assert chunks[-2]["guidance"]["preferences"] == {"helpful": 1.0, "harmless": 0.5}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 6
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


def test_without_being_asked_no_chunk_carries_usage(real: Any) -> None:
    chunks = real.stream(max_tokens=2, seed=1)
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)


def test_usage_grows_along_when_asked(real: Any) -> None:
    options = USAGE | {"continuous_usage_stats": True}
    chunks = real.stream(max_tokens=5, seed=1, ignore_eos=True, stream_options=options)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-2:] == [5, 5]


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 1, "ignore_eos": True},
        {"seed": 2, "temperature": 0},
        {"seed": 3, "stop": ["a", "e", "th"]},
        {"seed": 4, "preferences": {"harmless": 2}},
        {"seed": 5, "top_k": 5, "top_p": 0.9, "min_p": 0.01},
        {"seed": -(2**63), "guidance": {"beta": 2, "normalize": True}},
        {"seed": 2**63 - 1, "model": "tiny:kind"},
    ],
)
def test_streamed_and_whole_are_the_same_answer(real: Any, fields: dict[str, Any]) -> None:
    whole = real.chat(max_tokens=40, **fields).json()
    chunks = real.stream(max_tokens=40, stream_options=USAGE, **fields)
    assert text_of(chunks) == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"] == whole["usage"]
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert [reason for reason in reasons if reason] == [whole["choices"][0]["finish_reason"]]
    assert chunks[-2]["guidance"] == whole["guidance"]


def test_a_seed_repeats_and_seeds_differ(real: Any) -> None:
    answers = [content(real.chat(max_tokens=30, seed=seed, ignore_eos=True)) for seed in (7, 7, 8)]
    assert answers[0] == answers[1] != answers[2]


def test_without_a_seed_answers_differ(real: Any) -> None:
    assert len({content(real.chat(max_tokens=30, ignore_eos=True)) for _ in range(3)}) > 1


def test_a_tiny_temperature_is_greedy(real: Any) -> None:
    greedy = content(real.chat(max_tokens=20, temperature=0, seed=1))
    assert content(real.chat(max_tokens=20, temperature=1e-300, seed=2)) == greedy


def test_preferences_replace_the_defaults_whole(real: Any) -> None:
    def answer(**fields: Any) -> str:
        return content(real.chat(max_tokens=30, seed=1, ignore_eos=True, **fields))

    default = answer()
    assert answer(preferences={"helpful": 1.0, "harmless": 0.5}) == default
    helpful = answer(preferences={"helpful": 1.0})
    assert helpful != default
    assert answer(preferences={"helpful": 1, "harmless": 0}) == helpful
    assert answer(preferences={}) == answer(model="tiny:plain") != default


def test_a_preset_is_a_model(real: Any) -> None:
    preset = real.chat(model="tiny:kind", max_tokens=30, seed=1, ignore_eos=True).json()
    assert preset["model"] == "tiny:kind"
    assert preset["guidance"]["preferences"] == {"helpful": 0.0, "harmless": 2.0}
    given = real.chat(preferences={"harmless": 2}, max_tokens=30, seed=1, ignore_eos=True)
    assert content(given) == preset["choices"][0]["message"]["content"]
    own = real.chat(model="tiny:kind", preferences={"helpful": 1}, max_tokens=2).json()
    assert own["guidance"]["preferences"] == {"helpful": 1.0, "harmless": 0.0}


def test_beta_divides_and_normalize_divides_the_mix(scripted: Callable[..., Any]) -> None:
    with scripted() as server:
        server.engine.free()
        weights = {"helpful": 1, "harmless": 0.5}
        server.chat(max_tokens=1, preferences=weights, guidance={"beta": 0.5})
        server.chat(max_tokens=1, preferences=weights, guidance={"normalize": True})
        server.chat(max_tokens=1, preferences={"helpful": 0, "harmless": 0})
        assert server.engine.mixes == [
            {"base": 1.0, "helpful": 2.0, "harmless": 1.0},
            {"base": 0.4, "helpful": 0.4, "harmless": 0.2},
            {"base": 1.0, "helpful": 0.0, "harmless": 0.0},
        ]


def test_sampling_reaches_the_engine_as_sent(scripted: Callable[..., Any]) -> None:
    with scripted() as server:
        server.engine.free()
        server.chat(
            max_tokens=3, temperature=0.5, top_p=0.9, top_k=1000, min_p=0.1, seed=-3, stop_token_ids=[7]
        )
        server.chat(max_completion_tokens=3, ignore_eos=True, top_k=-1)
        first, second = [request.sampling for request in server.engine.requests.values()]
        assert (first.max_tokens, first.temperature, first.top_p, first.min_p) == (3, 0.5, 0.9, 0.1)
        assert (first.top_k, first.seed, first.stop_token_ids) == (300, -3, {0, 7})
        assert (second.max_tokens, second.temperature, second.top_p, second.top_k) == (3, 1.0, 1.0, 0)
        assert second.stop_token_ids == frozenset()


def test_every_member_gets_its_own_prompt(real: Any, deployment: Any) -> None:
    tokenizer = real.serving.runtime.tokenizer
    prompts = tokenizer.prompts([{"role": "user", "content": "hello"}])
    assert set(prompts) == {"base", *deployment.reward_names}
    assert tokenizer.decode(prompts["harmless"]) == "Grade this: user says hello;"
    assert prompts["base"] == prompts["helpful"]


def test_content_parts_are_joined_and_developer_is_system(real: Any) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    a = real.chat(messages=[{"role": "developer", "content": parts}], max_tokens=20, seed=1, ignore_eos=True)
    b = real.chat(
        messages=[{"role": "system", "content": "one\ntwo"}], max_tokens=20, seed=1, ignore_eos=True
    )
    assert content(a) == content(b)
    assert a.json()["usage"] == b.json()["usage"]


@pytest.mark.parametrize("stop", ["lo wor", ["zzz", "lo wor", "world"]])
def test_a_stop_string_across_tokens_cuts_and_ends_the_work(scripted: Callable[..., Any], stop: Any) -> None:
    with scripted("hello world ") as server:
        server.engine.free()
        body = server.chat(max_tokens=200, stop=stop).json()
        assert body["choices"][0]["message"]["content"] == "hel"
        assert body["choices"][0]["finish_reason"] == "stop"
        script = server.engine.script
        tokenizer = server.serving.runtime.tokenizer
        needed = next(n for n in range(len(script) + 1) if "lo wor" in tokenizer.decode(script[:n]))
        assert body["usage"]["completion_tokens"] == needed
        assert text_of(server.stream(max_tokens=200, stop=stop)) == "hel"


def test_a_stop_string_aborts_the_sequence(scripted: Callable[..., Any], until: Any) -> None:
    with scripted("hello world ") as server, server.client() as client:
        with server.open(client, stop="world") as events:
            server.engine.allow(8)
            chunks = list(events)
        assert chunks[-1] == "[DONE]"
        assert text_of(chunks[:-1]) == "hello "
        until(lambda: server.engine.aborted)
        assert server.serving.dispatcher.admitted == 0


def test_eos_counts_and_is_not_shown(scripted: Callable[..., Any]) -> None:
    with scripted("hi<|end|>no") as server:
        server.engine.free()
        body = server.chat().json()
        assert body["choices"][0] == {
            "index": 0,
            "message": {"role": "assistant", "content": "hi", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
        assert body["usage"]["completion_tokens"] == server.engine.script.index(0) + 1
        ignoring = server.chat(ignore_eos=True, max_tokens=len(server.engine.script)).json()
        assert ignoring["choices"][0]["message"]["content"] == "hino"
        assert ignoring["choices"][0]["finish_reason"] == "length"


def test_a_stop_token_ends_the_answer_and_is_not_shown(scripted: Callable[..., Any]) -> None:
    with scripted("abc") as server:
        server.engine.free()
        token = server.engine.script[-1]
        body = server.chat(stop_token_ids=[token]).json()
        shown = server.serving.runtime.tokenizer.decode(server.engine.script[:-1])
        assert body["choices"][0]["message"]["content"] == shown
        assert body["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "text", ["👩‍👩‍👧‍👦🏳️‍🌈", "日本語 и кириллица", "a\u2028b\x85c\u2029d\r\ne\nf", 'q"\\/\x00\x1f']
)
def test_characters_arrive_whole_and_lines_do_not_break_events(
    scripted: Callable[..., Any], text: str
) -> None:
    with scripted(text) as server:
        server.engine.free()
        length = len(server.engine.script)
        chunks = server.stream(max_tokens=length)
        assert text_of(chunks) == text
        assert content(server.chat(max_tokens=length)) == text
        for chunk in chunks:
            for choice in chunk["choices"]:
                assert "\ufffd" not in (choice["delta"].get("content") or "")
        with server.client() as client:
            raw = client.post("/v1/chat/completions", json=server.body(stream=True, max_tokens=length)).text
        assert all(line.startswith("data: ") or not line for line in raw.splitlines())


def test_an_answer_cut_in_mid_character_says_so_once(scripted: Callable[..., Any]) -> None:
    with scripted("👍") as server:
        server.engine.free()
        assert content(server.chat(max_tokens=2)) == "\ufffd"
        assert text_of(server.stream(max_tokens=2)) == "\ufffd"


def test_the_first_chunk_comes_before_the_first_token(scripted: Callable[..., Any]) -> None:
    with scripted("abc ") as server, server.client() as client, server.open(client, max_tokens=3) as events:
        first = next(events)
        assert first["choices"][0]["delta"]["role"] == "assistant"
        server.engine.free()
        assert list(events)[-1] == "[DONE]"


def test_one_json_line_per_request_and_never_its_prompt(
    scripted: Callable[..., Any], caplog: pytest.LogCaptureFixture, until: Any
) -> None:
    import json

    caplog.set_level("INFO", "genarm.requests")
    secret = [{"role": "user", "content": "my secret words"}]
    with scripted("spoken ") as server:
        server.engine.free()
        server.chat(messages=secret, max_tokens=3, preferences={"helpful": 2})
        server.chat(messages=secret, max_tokens=0)
        until(lambda: len(caplog.records) >= 2)
    good, bad = [
        json.loads(record.getMessage()) for record in caplog.records if record.name == "genarm.requests"
    ]
    assert good["status"] == 200
    assert good["completion_tokens"] == 3
    assert good["preferences"] == {"helpful": 2.0, "harmless": 0.0}
    assert good["ttft_s"] <= good["total_s"]
    assert bad["status"] == 400
    assert "secret" not in caplog.text
    assert "spoken" not in caplog.text
