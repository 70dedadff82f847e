"""Searches over a real socket: answers as usual, progress as comments, cost in usage; cancelled or refused, none stays behind."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from server.api.search import SearchRun
from server.config import read_deployment
from server.decoding.search import Work
from server.errors import ApiError
from server.runtime import load_runtime

CHOSEN = {"helpful": 1.0, "harmless": 0.5}


def searched(method: str, **fields: Any) -> dict[str, Any]:
    """Fields of a request: judged by the rewards, which do not guide."""
    guidance = {"method": method, **fields.pop("guidance", {})}
    return {"preferences": CHOSEN, "guidance": guidance, "seed": 3, "max_tokens": 10, **fields}


SMALL: dict[str, dict[str, Any]] = {
    "best_of_n": {"n_candidates": 3},
    "darwin": {"iterations": 1, "mutations": 2, "m": 4, "keep": 1},
    "transfer_q": {"k": 3, "rollout_tokens": 2},
}
EVERY = pytest.mark.parametrize("method", list(SMALL))


def idle(server: Any, until: Callable[..., None]) -> None:
    """Nobody is let in any more, and no block of a cache is in use."""
    until(lambda: server.serving.dispatcher.admitted == 0)
    until(lambda: all(share == 0 for share in server.serving.dispatcher.stats.cache_usage.values()))


@EVERY
def test_an_answer_is_found_and_its_cost_told(real: Any, until: Any, method: str) -> None:
    body = real.chat(**searched(method, guidance=SMALL[method])).json()
    (choice,) = body["choices"]
    assert choice["finish_reason"] in ("stop", "length")
    usage = body["usage"]
    assert 0 < usage["completion_tokens"] <= 10
    assert usage["search"]["generated_tokens"] > usage["completion_tokens"]
    assert usage["search"]["scored_tokens"] > 0
    assert usage["search"]["engine_requests"] > 3
    assert usage["search"]["score"] < 0  # a sum of log-probs
    assert body["guidance"]["method"] == method
    assert body["guidance"]["parameters"] == SMALL[method]
    idle(real, until)


@EVERY
def test_streamed_and_not_are_the_same_answer(real: Any, method: str) -> None:
    fields = searched(method, guidance=SMALL[method])
    whole = real.chat(**fields).json()["choices"][0]
    chunks = real.stream(**fields)
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == whole["message"]["content"]
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["finish_reason"]
    assert chunks[-1]["guidance"]["method"] == method


def test_the_best_of_n_is_one_of_n_ordinary_answers(real: Any) -> None:
    """With one candidate it is the ordinary answer of the base."""
    alone = real.chat(**searched("best_of_n", guidance={"n_candidates": 1})).json()
    plain = real.chat(preferences={}, seed=3, max_tokens=10).json()
    assert alone["choices"][0]["message"] == plain["choices"][0]["message"]
    guided = real.chat(**searched("best_of_n", guidance={"n_candidates": 1, "guided": True})).json()
    steered = real.chat(preferences=CHOSEN, seed=3, max_tokens=10).json()
    assert guided["choices"][0]["message"] == steered["choices"][0]["message"]


def test_progress_comes_as_comments(real: Any) -> None:
    fields = searched("darwin", guidance={**SMALL["darwin"], "iterations": 2})
    with real.client() as client:
        text = client.post("/v1/chat/completions", json=real.body(stream=True, **fields)).text
    comments = [line for line in text.split("\n") if line.startswith(": darwin")]
    assert ": darwin iteration 1/2, 0 of 10 tokens" in comments
    assert ": darwin iteration 2/2, 8 of 10 tokens" in comments
    events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert text.endswith("data: [DONE]\n\n")


def test_several_answers_are_searched_for_independently(real: Any) -> None:
    fields = searched("best_of_n", guidance={"n_candidates": 2}, n=3)
    body = real.chat(**fields).json()
    assert len({choice["message"]["content"] for choice in body["choices"]}) == 3
    first = real.chat(**{**fields, "n": 1}).json()["choices"][0]["message"]
    assert body["choices"][0]["message"] == first


def test_completions_and_responses_search_too(real: Any) -> None:
    fields = searched("best_of_n", guidance=SMALL["best_of_n"])
    body = real.complete(["hello", "water"], **fields, echo=True).json()
    assert [choice["text"][:5] for choice in body["choices"]] == ["hello", "water"]
    chunks = real.stream_completion("hello", **fields)
    told = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert told == real.complete("hello", **fields).json()["choices"][0]["text"]
    with real.client() as client:
        response = client.post(
            "/v1/responses",
            json={
                "model": "tiny",
                "input": "hello",
                "preferences": CHOSEN,
                "guidance": fields["guidance"],
                "max_output_tokens": 10,
            },
        ).json()
    assert response["output"][0]["content"][0]["text"]
    assert response["usage"]["search"]["generated_tokens"] > 0


@EVERY
def test_a_stop_string_ends_the_answer(real: Any, method: str) -> None:
    fields = searched(method, guidance=SMALL[method], ignore_eos=True)
    whole = real.chat(**fields).json()
    stop = whole["choices"][0]["message"]["content"][2:4]
    # Cut there, another candidate may win; whatever wins is cut, and nothing is drawn behind a stop.
    body = real.chat(**fields, stop=[stop]).json()
    assert stop not in body["choices"][0]["message"]["content"]
    drawn, freely = (one["usage"]["search"]["generated_tokens"] for one in (body, whole))
    assert drawn < freely


@EVERY
def test_logprobs_are_of_the_answer(real: Any, method: str) -> None:
    fields = searched(method, guidance=SMALL[method])
    body = real.chat(**fields, logprobs=True, top_logprobs=2).json()
    content = body["choices"][0]["logprobs"]["content"]
    assert len(content) == body["usage"]["completion_tokens"]
    assert all(len(token["top_logprobs"]) == 2 for token in content)
    assert all(token["logprob"] <= 0 for token in content)


def test_reports_are_of_what_guided_the_draws(real: Any) -> None:
    fields = searched("best_of_n", guidance={"n_candidates": 2, "guided": True, "report": "tokens"})
    body = real.chat(**fields).json()
    assert body["guidance"]["mean_kl"] > 0
    assert len(body["choices"][0]["guidance"]["tokens"]) == body["usage"]["completion_tokens"]


def test_a_form_holds_for_the_best_of_n(real: Any) -> None:
    shape = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    form = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {**shape, "additionalProperties": False}},
    }
    fields = searched("best_of_n", guidance=SMALL["best_of_n"], max_tokens=40, response_format=form)
    answer = json.loads(real.chat(**fields).json()["choices"][0]["message"]["content"])
    assert answer["a"] in (1, 2)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guidance": {"method": "best_of_n", "n_candidates": 0}}, "guidance.n_candidates"),
        ({"guidance": {"method": "best_of_n", "beams": 2}}, "guidance.beams"),
        ({"guidance": {"method": "best_of_n", "scorer": "judge"}}, "guidance.scorer"),
        ({"guidance": {"method": "best_of_n"}, "preferences": {}}, "guidance.scorer"),
        ({"guidance": {"method": "best_of_n"}, "preferences": {"kind": 1.0}}, "preferences.kind"),
        ({"guidance": {"method": "best_of_n", "n_candidates": 17}}, "guidance"),
        ({"guidance": {"method": "best_of_n", "n_candidates": 6}, "n": 3}, "guidance"),
        ({"guidance": {"method": "transfer_q", "policy": "x"}}, "guidance.policy"),
        ({"guidance": {"method": "transfer_q", "report": "summary"}}, "guidance.report"),
        ({"guidance": {"method": "transfer_q"}, "top_p": 0.5}, "top_p"),
        ({"guidance": {"method": "transfer_q"}, "logit_bias": {"5": 1.0}}, "logit_bias"),
        ({"guidance": {"method": "darwin"}, "response_format": {"type": "json_object"}}, "response_format"),
        (
            {
                "guidance": {"method": "darwin"},
                "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            },
            "messages",
        ),
        ({"guidance": {"method": "best_of_n"}, "max_tokens": 300}, "messages"),
    ],
)
def test_what_makes_no_search_is_refused_by_name(real: Any, fields: dict[str, Any], param: str) -> None:
    response = real.chat(**{"preferences": CHOSEN, "max_tokens": 5, **fields})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guidance": {"method": "darwin"}}, "guidance.mutate"),
        ({"best_of": 2}, "best_of"),
        ({"echo": True, "logprobs": 1}, "logprobs"),
        ({"echo": True, "max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_goes_with_completions_only_is_refused(real: Any, fields: dict[str, Any], param: str) -> None:
    asked = {"preferences": CHOSEN, "guidance": {"method": "best_of_n", "n_candidates": 2}, **fields}
    response = real.complete("hello", **asked)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


@pytest.fixture(scope="module")
def judged(
    make_checkpoint: Callable[..., Path], make_scorer: Callable[..., Path], serve: Callable[..., Any]
) -> Iterator[Any]:
    """A server with a base and a scorer, and with no reward."""
    declared = {
        "model": "judged",
        "base": {"model": str(make_checkpoint("llama", "judged-base", seed=41))},
        "scorers": [
            {"name": "judge", "model": str(make_scorer("llama", "judge", seed=42)), "trained_on": "responses"}
        ],
    }
    with serve(read_deployment(declared, "test"), load_runtime) as server:
        yield server


@EVERY
def test_a_scorer_chooses_where_a_deployment_has_one(judged: Any, until: Any, method: str) -> None:
    fields = {"guidance": {"method": method, **SMALL[method]}, "seed": 5, "max_tokens": 10}
    body = judged.chat(**fields).json()
    named = {**fields, "guidance": {**fields["guidance"], "scorer": "judge"}}
    assert judged.chat(**named).json()["choices"] == body["choices"]
    assert body["usage"]["search"]["score"] is not None
    idle(judged, until)


def test_the_scorers_best_answer_is_chosen(judged: Any) -> None:
    """More candidates never have a lower best score, and the first is the ordinary answer."""
    plain = judged.chat(seed=5, max_tokens=10).json()["choices"][0]["message"]
    answers = [
        judged.chat(guidance={"method": "best_of_n", "n_candidates": n}, seed=5, max_tokens=10).json()
        for n in (1, 3, 9)
    ]
    assert answers[0]["choices"][0]["message"] == plain
    scores = [answer["usage"]["search"]["score"] for answer in answers]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1]


def test_methods_are_listed_with_their_parameters(real: Any) -> None:
    with real.client() as client:
        methods = {one["name"]: one for one in client.get("/v1/preferences").json()["methods"]}
    assert set(SMALL) <= set(methods)
    assert methods["darwin"]["parameters"]["iterations"]["default"] == 3
    assert all(methods[name]["available"] for name in SMALL)


@pytest.fixture
def long(real: Any) -> Iterator[tuple[Any, str]]:
    """A stream of a search that takes long, at its first chunk: its lines, and its id."""
    fields = searched("transfer_q", guidance={"k": 8, "rollout_tokens": 20}, max_tokens=200, ignore_eos=True)
    with (
        real.client() as client,
        client.stream("POST", "/v1/chat/completions", json=real.body(stream=True, **fields)) as response,
    ):
        lines = response.iter_lines()
        first = next(line for line in lines if line.startswith("data: "))
        yield lines, json.loads(first[6:])["id"]


def test_a_running_search_is_seen_fixed_and_cancelled(real: Any, long: Any, until: Any) -> None:
    lines, id = long
    with real.client() as client:
        path = f"/v1/chat/completions/{id}"
        until(lambda: client.get(path).json()["progress"].startswith("transfer_q, "))
        assert client.get(path).json()["status"] == "running"
        refused = client.patch(path, json={"preferences": {"helpful": 2.0}})
        assert refused.status_code == 400
        assert "fixed" in refused.json()["error"]["message"]
        assert client.delete(path).json()["deleted"] is True
    rest = list(lines)
    assert rest[-2:] == ["data: [DONE]", ""]
    last = json.loads([line for line in rest if line.startswith("data: {")][-1][6:])
    assert last["guidance"]["cancelled"] is True
    idle(real, until)


def test_a_client_that_leaves_ends_its_search(real: Any, until: Any, monkeypatch: Any) -> None:
    engine = real.serving.dispatcher.engine
    asked, released = set[str](), set[str]()
    add, release = engine.add, engine.release

    def adding(*requests: Any) -> Any:
        asked.update(one.id for one in requests if one.hold)
        return add(*requests)

    def releasing(ids: Any) -> Any:
        released.update(ids)
        return release(ids)

    monkeypatch.setattr(engine, "add", adding)
    monkeypatch.setattr(engine, "release", releasing)
    fields = searched("transfer_q", guidance={"k": 8, "rollout_tokens": 20}, max_tokens=200, ignore_eos=True)
    with httpx.Client(base_url=real.url, timeout=30) as client:
        with client.stream("POST", "/v1/chat/completions", json=real.body(stream=True, **fields)) as answer:
            next(answer.iter_lines())
        idle(real, until)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/chat/completions", json=real.body(**fields), timeout=0.3)
        idle(real, until)
    assert len(asked) > 8
    assert asked == released  # contexts that stay behind would go only when others need the room


def test_a_search_takes_a_place_for_each_sequence_it_may_have(real: Any, long: Any) -> None:  # noqa: ARG001
    assert real.serving.dispatcher.admitted == 8


def test_a_fault_ends_the_search_with_one_error(real: Any, until: Any, monkeypatch: Any) -> None:
    from server.decoding.search.transfer_q import TransferQ

    def broken(self: Any, task: Any) -> Any:  # noqa: ARG001
        yield from ()
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(TransferQ, "search", broken)
    response = real.chat(**searched("transfer_q"))
    assert response.status_code in (500, 503)
    assert "secret" not in response.text
    idle(real, until)


def test_shutdown_ends_a_search_with_an_error(real: Any, long: Any, until: Any) -> None:
    """As draining does when its time is over."""
    lines, _ = long
    done = threading.Event()

    def fail() -> None:
        real.serving.dispatcher.fail_all(lambda: ApiError("The server is shutting down."))
        done.set()

    real.serving.dispatcher._loop.call_soon_threadsafe(fail)
    assert done.wait(5)
    rest = [line for line in lines if line]
    assert "shutting down" in rest[-1]
    time.sleep(0)
    idle(real, until)


def test_a_search_that_is_stopped_while_the_engine_takes_sequences_has_let_go_of_the_last_ones() -> None:
    engine = SimpleNamespace(alive=True, released=[], add=lambda *_: Future(), abort=lambda _: None)
    engine.release = engine.released.extend
    works = iter([Work(), Work(add=[SimpleNamespace()], release=["held before"])])  # type: ignore[list-item]
    execution = SimpleNamespace(
        begin=lambda: next(works), take=lambda _: next(works), end=Work, answer=None, note=""
    )
    choice = SimpleNamespace(sequence_id="one/0")
    method = SimpleNamespace(width=lambda _: 1, search=lambda _: iter(()))

    async def stopped() -> None:
        run = SearchRun(choice, method, SimpleNamespace(parameters=None), None)  # type: ignore[arg-type]
        run.execution = execution  # type: ignore[assignment]
        await run.begin(engine, lambda _: None, lambda *_: None)  # type: ignore[arg-type]
        run.push(SimpleNamespace())  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        run.stop()

    asyncio.run(stopped())
    assert engine.released == ["held before"]
