"""Speculation over HTTP: the same answers in fewer steps; usage and metrics say how many guesses stood."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from server.config import read_deployment
from server.engine.speculation.pace import Pace
from server.runtime import load_runtime

ALWAYS = {"logit_bias": {"70": 100, "71": 99.5}, "temperature": 0.5}
"""Answers that both rewards and repetition guess well."""


@pytest.fixture(scope="module")
def guessing(
    declared: dict[str, Any], serve: Callable[..., Any], steady: Callable[..., Pace]
) -> Iterator[Any]:
    """A server that guesses four tokens ahead in every step."""
    deployment = read_deployment({**declared, "engine": {"speculation": "auto"}}, "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.engine.engine.AdaptivePace", lambda: steady(4, seed=0))
        with serve(deployment, load_runtime) as server:
            yield server


def details(body: dict[str, Any]) -> tuple[int, int]:
    """Guesses that stood, and that did not."""
    of = body["usage"]["completion_tokens_details"]
    return of["accepted_prediction_tokens"], of["rejected_prediction_tokens"]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 40, "temperature": 0},
        {"max_tokens": 40, "seed": 3, "logprobs": True, "top_logprobs": 2},
        {"max_tokens": 40, **ALWAYS, "seed": 3, "n": 3},
        {"max_tokens": 40, **ALWAYS, "seed": 4, "guidance": {"report": "tokens"}},
        {"max_tokens": 30, "response_format": {"type": "json_object"}, "seed": 5},
    ],
)
def test_an_answer_is_what_it_is_without(
    guessing: Any, real: Any, alike: Any, fields: dict[str, Any]
) -> None:
    ours, plain = guessing.chat(**fields).json(), real.chat(**fields).json()
    assert alike(ours["choices"], plain["choices"])
    assert alike(ours["guidance"], plain["guidance"])
    assert ours["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]
    assert details(plain) == (0, 0)


@pytest.mark.parametrize("streamed", [False, True])
def test_nothing_behind_a_stop_string_goes_out(guessing: Any, real: Any, streamed: bool) -> None:
    def said(server: Any) -> tuple[str, str, int]:
        fields = {**ALWAYS, "max_tokens": 60, "seed": 6, "stop": [stop]}
        if not streamed:
            body = server.chat(**fields).json()
            choice = body["choices"][0]
            return choice["message"]["content"], choice["finish_reason"], body["usage"]["completion_tokens"]
        chunks = server.stream(**fields, stream_options={"include_usage": True})
        text = "".join(one["choices"][0]["delta"].get("content", "") for one in chunks if one["choices"])
        reasons = [one["choices"][0]["finish_reason"] for one in chunks if one["choices"]]
        return text, reasons[-1], chunks[-1]["usage"]["completion_tokens"]

    whole = real.chat(**ALWAYS, max_tokens=60, seed=6).json()["choices"][0]["message"]["content"]
    stop = whole[17:22]
    ours = said(guessing)
    assert ours == said(real)
    assert ours[:2] == (whole[: whole.index(stop)], "stop")


def test_usage_and_metrics_count_guesses(guessing: Any) -> None:
    def counts() -> list[float]:
        with guessing.client() as client:
            lines = client.get("/metrics").text.splitlines()
        names = ("num_draft_tokens", "num_accepted_tokens")
        return [
            float(line.rsplit(" ", 1)[1])
            for name in names
            for line in lines
            if line.startswith(f"genarm_spec_decode_{name}_total{{")
        ]

    before = counts()
    body = guessing.chat(**ALWAYS, max_tokens=50, n=2, ignore_eos=True).json()
    accepted, rejected = details(body)
    assert accepted > 20
    assert body["usage"]["completion_tokens"] == 100
    drafted, stood = (now - then for now, then in zip(counts(), before, strict=True))
    assert (drafted, stood) == (accepted + rejected, accepted)


def test_usage_grows_with_the_stream(guessing: Any) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = guessing.stream(**ALWAYS, max_tokens=50, ignore_eos=True, stream_options=options)
    counted = [one["usage"]["completion_tokens"] for one in chunks]
    assert counted == sorted(counted)
    assert counted[-1] == 50
    accepted = [details(one)[0] for one in chunks]
    assert accepted == sorted(accepted)
    assert accepted[-1] > 10


def test_a_change_holds_from_the_token_it_names(guessing: Any, real: Any) -> None:
    fields: dict[str, Any] = {
        "max_tokens": 120,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    with guessing.client() as client, guessing.open(client, preferences={"helpful": 0.0}, **fields) as events:
        chunks = [next(events)]
        while not chunks[-1]["choices"][0].get("token_ids"):
            chunks.append(next(events))
        url = f"/v1/chat/completions/{chunks[0]['id']}"
        with guessing.client() as other:
            at_token = other.patch(url, json={"preferences": {"helpful": 4.0}}).json()["at_token"]
        chunks += [chunk for chunk in events if chunk != "[DONE]"]
    tokens = [token for one in chunks for choice in one["choices"] for token in choice.get("token_ids") or ()]
    context = [*chunks[0]["prompt_token_ids"], *tokens[:at_token]]
    assert 0 < at_token < 120
    rest = real.complete(context, **{**fields, "max_tokens": 120 - at_token}, preferences={"helpful": 4.0})
    assert tokens[at_token:] == rest.json()["choices"][0]["token_ids"]


def test_a_cancelled_answer_keeps_what_it_has(guessing: Any, until: Any) -> None:
    fields: dict[str, Any] = {**ALWAYS, "max_tokens": 150, "ignore_eos": True}
    with guessing.client() as client, guessing.open(client, **fields) as events:
        first = next(events)
        with guessing.client() as other:
            gone = other.delete(f"/v1/chat/completions/{first['id']}")
        rest = list(events)
    assert gone.status_code == 200
    assert rest[-1] == "[DONE]"
    until(lambda: guessing.serving.dispatcher.stats.running == 0)
    assert set(guessing.serving.dispatcher.stats.cache_usage.values()) == {0.0}
