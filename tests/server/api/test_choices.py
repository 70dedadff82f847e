"""Several answers to one request: each its own, together one request that is begun, changed and ended once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from server.api.plan import choice_seed


def contents(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [choice["message"]["content"] for choice in response.json()["choices"]]


def metric(client: httpx.Client, name: str, **labels: str) -> float:
    """The value of a metric; 0 where it is not there yet."""
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(f"genarm_{name}{{") and all(f'{k}="{v}"' in line for k, v in labels.items()):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def test_the_first_of_eight_is_what_one_would_be_and_all_differ(real: Any) -> None:
    fields: dict[str, Any] = {"seed": 3, "max_tokens": 12, "ignore_eos": True}
    eight = contents(real.chat(n=8, **fields))
    assert len(set(eight)) == 8
    assert eight[0] == contents(real.chat(**fields))[0]
    assert contents(real.chat(n=8, **fields)) == eight
    assert contents(real.chat(n=3, **fields)) == eight[:3]


def test_eight_answers_compute_the_prompt_once(real: Any) -> None:
    chat = [{"role": "user", "content": "how do I clean the oven? first let it cool, then wipe it"}]
    with real.client() as client:
        before = metric(client, "prompt_tokens_computed_total")
        usage = real.chat(messages=chat, n=8, max_tokens=3, ignore_eos=True).json()["usage"]
        assert usage["completion_tokens"] == 24
        computed = metric(client, "prompt_tokens_computed_total") - before
    assert 0 < computed <= usage["prompt_tokens"]


def test_choices_have_seeds_that_no_neighbouring_request_has() -> None:
    assert choice_seed(7, 0) == 7
    seeds = {choice_seed(seed, number) for seed in range(-50, 50) for number in range(16)}
    assert len(seeds) == 100 * 16
    assert all(-(2**63) <= seed < 2**63 for seed in seeds)


def test_every_choice_begins_and_ends_once_and_the_last_has_the_guidance(real: Any) -> None:
    chunks = real.stream(n=3, max_tokens=5, seed=1, stream_options={"include_usage": True})
    starts = [chunk["choices"][0] for chunk in chunks[:3]]
    assert [start["index"] for start in starts] == [0, 1, 2]
    assert all(start["delta"] == {"role": "assistant", "content": "", "refusal": None} for start in starts)
    later = [chunk["choices"][0] for chunk in chunks[3:-1]]
    assert all("role" not in part["delta"] for part in later)
    ends = [(part["index"], part["delta"]) for part in later if part["finish_reason"]]
    assert sorted(index for index, _ in ends) == [0, 1, 2]
    assert all(delta == {} for _, delta in ends)
    for index in range(3):
        reasons = [part["finish_reason"] is not None for part in later if part["index"] == index]
        assert reasons == [False] * (len(reasons) - 1) + [True]
    assert ["guidance" in chunk for chunk in chunks] == [False] * (len(chunks) - 2) + [True, False]
    assert len({chunk["id"] for chunk in chunks}) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"logprobs": True, "top_logprobs": 2},
        {"stop": ["a", "e", " t"], "logprobs": True},
        {"stop": ["a", "e"], "min_tokens": 6, "include_stop_str_in_output": True},
        {"guidance": {"report": "tokens", "max_kl": 0.5}, "return_token_ids": True},
        {"logit_bias": {"0": 4}, "return_token_ids": True, "logprobs": True},
        {"guidance": {"report": "summary"}, "frequency_penalty": 0.5, "temperature": 0.7},
        {
            "stop_token_ids": [70, 71, 72, 73],
            "min_tokens": 3,
            "presence_penalty": 1,
            "repetition_penalty": 1.2,
        },
    ],
)
def test_streamed_and_whole_are_the_same_answers(real: Any, alike: Any, fields: dict[str, Any]) -> None:
    fields = {"n": 3, "seed": 11, "max_tokens": 20, **fields}
    whole = real.chat(**fields).json()
    chunks = real.stream(stream_options={"include_usage": True}, **fields)
    assert chunks.pop()["usage"] == whole["usage"]
    guidance = chunks[-1]["guidance"]
    assert alike(guidance, whole["guidance"])
    parts = [part for chunk in chunks for part in chunk["choices"]]
    if "return_token_ids" in fields:
        assert [chunk.get("prompt_token_ids") for chunk in chunks[:2]] == [whole["prompt_token_ids"], None]
        counted = sum(len(choice["token_ids"]) for choice in whole["choices"])
        assert counted == whole["usage"]["completion_tokens"]
    for choice in whole["choices"]:
        mine = [part for part in parts if part["index"] == choice["index"]]
        assert "".join(part["delta"].get("content") or "" for part in mine) == choice["message"]["content"]
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        if choice["logprobs"] is not None:
            listed = [entry for part in mine if part["logprobs"] for entry in part["logprobs"]["content"]]
            assert alike(listed, choice["logprobs"]["content"])
            assert choice["logprobs"]["refusal"] is None
        if "token_ids" in choice:
            assert [id for part in mine for id in part["token_ids"]] == choice["token_ids"]
        if "guidance" in choice:
            told = [entry for part in mine if "guidance" in part for entry in part["guidance"]["tokens"]]
            assert alike(told, choice["guidance"]["tokens"])


def test_every_choice_takes_a_place(scripted: Callable[..., Any], until: Any) -> None:
    with (
        scripted(engine={"max_sequences": 1}, http={"max_queue": 4}) as server,
        ThreadPoolExecutor(2) as pool,
    ):
        admitted = server.serving.dispatcher
        first = pool.submit(server.chat, n=3, max_tokens=4)
        until(lambda: admitted.admitted == 3)
        refused = server.chat(n=3, max_tokens=4)
        assert refused.status_code == 429
        second = pool.submit(server.chat, n=2, max_tokens=4)
        until(lambda: admitted.admitted == 5)
        server.engine.free()
        assert [one.result().status_code for one in (first, second)] == [200, 200]
        until(lambda: admitted.admitted == 0)


def test_the_cap_is_the_deployments_and_is_said(scripted: Callable[..., Any]) -> None:
    with scripted(http={"max_choices": 2}) as server:
        server.engine.free()
        assert server.chat(n=2, max_tokens=1).status_code == 200
        error = server.chat(n=3, max_tokens=1).json()["error"]
        assert error["param"] == "n"
        assert "at most 2 choices" in error["message"]
    with scripted(engine={"max_sequences": 1}, http={"max_queue": 2}) as server:
        # What can never be let in is the client's error and no reason to try again.
        assert server.chat(n=4, max_tokens=1).status_code == 400


def test_choices_end_by_themselves(scripted: Callable[..., Any], until: Any) -> None:
    from server.engine import TokenOutput

    with scripted("abc ") as server, server.client() as client, server.open(client, n=2) as events:
        id = next(events)["id"]
        until(lambda: len(server.engine.requests) == 2)
        server.engine.abort(f"{id}/1")
        server.serving.dispatcher.on_outputs([TokenOutput(f"{id}/1", 0, 70, "length")])
        until(lambda: server.serving.dispatcher.admitted == 1)
        with server.client() as other:
            state = other.get(f"/v1/chat/completions/{id}").json()
            assert state["choices"] == [
                {"index": 0, "tokens": 0, "finish_reason": None},
                {"index": 1, "tokens": 1, "finish_reason": "length"},
            ]
            assert state["tokens"] == 1
            changed = other.patch(f"/v1/chat/completions/{id}", json={"preferences": {}}).json()
            assert changed["choices"] == [{"index": 0, "at_token": 0}]
        server.engine.free()
        assert list(events)[-1] == "[DONE]"


def test_a_change_holds_for_every_choice_from_its_own_token(scripted: Callable[..., Any], until: Any) -> None:
    with scripted() as server, server.client() as client, server.open(client, n=2, max_tokens=9) as events:
        id = next(events)["id"]
        url = f"/v1/chat/completions/{id}"
        server.engine.allow(2)
        with server.client() as other:
            until(lambda: other.get(url).json()["tokens"] == 4)
            server.engine._spoken[f"{id}/1"] = 5  # one is ahead of the other
            changed = other.patch(url, json={"preferences": {"harmless": 3}}).json()
        choices = [{"index": 0, "at_token": 2}, {"index": 1, "at_token": 5}]
        assert (changed["at_token"], changed["choices"]) == (5, choices)
        server.engine.free()
        final = [chunk for chunk in events if chunk != "[DONE]"][-1]
        assert final["guidance"]["changes"] == [
            {
                "at_token": 5,
                "choices": choices,
                "preferences": {"helpful": 0.0, "harmless": 3.0},
                "beta": 1.0,
            }
        ]


def test_cancelling_ends_every_choice_well(scripted: Callable[..., Any], until: Any) -> None:
    with scripted() as server, server.client() as client, server.open(client, n=3) as events:
        id = next(events)["id"]
        server.engine.allow(2)
        with server.client() as other:
            until(lambda: other.get(f"/v1/chat/completions/{id}").json()["tokens"] == 6)
            assert other.delete(f"/v1/chat/completions/{id}").status_code == 200
        chunks = list(events)
        assert chunks.pop() == "[DONE]"
        ends = [part for chunk in chunks for part in chunk["choices"] if part["finish_reason"]]
        assert [(end["index"], end["finish_reason"]) for end in ends] == [
            (0, "stop"),
            (1, "stop"),
            (2, "stop"),
        ]
        assert chunks[-1]["guidance"]["cancelled"] is True
        until(lambda: set(server.engine.aborted) == {f"{id}/{index}" for index in range(3)})
        until(lambda: server.serving.dispatcher.admitted == 0)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_ends_the_work_on_every_choice(
    scripted: Callable[..., Any], until: Any, streamed: bool
) -> None:
    with scripted() as server:
        server.engine.allow(2)
        with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=server.url, timeout=0.3) as client:
            client.post("/v1/chat/completions", json=server.body(stream=streamed, n=4))
        until(lambda: len(server.engine.aborted) == 4)
        until(lambda: server.serving.dispatcher.admitted == 0)


@pytest.mark.parametrize("streamed", [True, False])
def test_one_choice_that_fails_fails_the_request_once(
    scripted: Callable[..., Any], until: Any, streamed: bool
) -> None:
    from server.engine import TokenOutput

    with scripted() as server, ThreadPoolExecutor(1) as pool, server.client() as client:
        pending = pool.submit(
            lambda: client.post("/v1/chat/completions", json=server.body(n=3, stream=streamed))
        )
        until(lambda: len(server.engine.requests) == 3)
        id = next(iter(server.engine.requests)).partition("/")[0]
        server.serving.dispatcher.on_outputs([TokenOutput(f"{id}/1", 0, -1, "error", "/secret")])
        response = pending.result()
        assert response.text.count('"error"') == 1
        assert "secret" not in response.text
        assert "[DONE]" not in response.text
        assert response.status_code == (200 if streamed else 500)
        until(lambda: set(server.engine.aborted) == {f"{id}/0", f"{id}/2"})
        until(lambda: server.serving.dispatcher.admitted == 0)
        assert metric(client, "request_failure_total", status="500") == 1
        assert metric(client, "request_success_total") == 0


def test_metrics_count_the_tokens_and_the_end_of_every_choice(
    scripted: Callable[..., Any], until: Any
) -> None:
    with scripted() as server, server.client() as client:
        server.engine.free()
        usage = server.chat(n=3, max_tokens=4).json()["usage"]
        assert usage["completion_tokens"] == 12
        until(lambda: metric(client, "request_success_total", finished_reason="length") == 3)
        assert metric(client, "generation_tokens_total") == 12
        assert metric(client, "prompt_tokens_total") == usage["prompt_tokens"]
        assert metric(client, "time_to_first_token_seconds_count") == 1
        assert metric(client, "inter_token_latency_seconds_count") == 12 - 3
        assert metric(client, "e2e_request_latency_seconds_count") == 1
