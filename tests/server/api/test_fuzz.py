"""Bodies nobody thought of: every one gets an answer in the contract's shape, and none is a 5xx."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.api.schema import ChangeRequest, ChatCompletionRequest, CompletionRequest

values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from(["helpful", "harmless", "genarm", "none", "user", "text", "tiny", "tiny:kind", 10**40]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "helpful", "beta", "method", "include_usage"])
            | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


def bodies(fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """One to three fields of a valid body replaced by anything."""
    return st.dictionaries(st.sampled_from(sorted(fields)), values, min_size=1, max_size=3)


@pytest.fixture(scope="module")
def speaking(real: Any) -> Iterator[tuple[Any, httpx.Client]]:
    with real.client() as client:
        yield real, client


@pytest.fixture(scope="module", autouse=True)
def canary(real: Any) -> Iterator[None]:
    """A request that runs beside all of them, over and over, and keeps its exact tokens."""
    fields = {"max_tokens": 40, "seed": 3, "ignore_eos": True, "return_token_ids": True}
    over = threading.Event()

    def tokens() -> Any:
        return real.chat(**fields).json()["choices"][0]["token_ids"]

    def sing() -> int:
        songs = 0
        while not over.is_set() or not songs:
            assert tokens() == alone
            songs += 1
        return songs

    alone = tokens()
    with ThreadPoolExecutor(1) as pool:
        singing = pool.submit(sing)
        yield
        over.set()
        assert singing.result() > 0


def check(response: httpx.Response, allowed: set[int]) -> None:
    assert response.status_code in allowed, response.text
    if response.status_code != 200:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert len(response.content) < 2500


@given(changes=bodies(ChatCompletionRequest.model_fields))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_field_may_hold_anything(speaking: tuple[Any, httpx.Client], changes: dict[str, Any]) -> None:
    server, client = speaking
    body = {**server.body(max_tokens=1), **changes}
    if body.get("max_tokens") is None:
        body["max_tokens"] = 1
    check(client.post("/v1/chat/completions", json=body), {200, 400, 404})


@given(changes=bodies(CompletionRequest.model_fields))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_field_of_a_completion_may_hold_anything(
    speaking: tuple[Any, httpx.Client], changes: dict[str, Any]
) -> None:
    _, client = speaking
    body = {"model": "tiny", "prompt": "a", "max_tokens": 1, **changes}
    check(client.post("/v1/completions", json=body), {200, 400, 404})


@given(body=values)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_body_may_come(speaking: tuple[Any, httpx.Client], body: Any) -> None:
    _, client = speaking
    headers = {"content-type": "application/json"}
    check(client.post("/v1/chat/completions", content=json.dumps(body), headers=headers), {400, 404})


@given(changes=bodies(ChangeRequest.model_fields))
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_change_may_come(scripted_stream: tuple[str, httpx.Client], changes: dict[str, Any]) -> None:
    url, client = scripted_stream
    check(client.patch(url, json=changes), {200, 400})


@pytest.fixture
def scripted_stream(scripted: Callable[..., Any]) -> Iterator[tuple[str, httpx.Client]]:
    with (
        scripted() as server,
        server.client() as reader,
        server.client() as client,
        server.open(reader) as events,
    ):
        yield f"/v1/chat/completions/{next(events)['id']}", client
