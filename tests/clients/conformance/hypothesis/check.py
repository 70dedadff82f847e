"""Ten thousand bodies nobody would send, while another request runs.

Each is answered with 200 or with a refusal in OpenAI's shape, and the other request keeps its tokens.
"""

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hypothesis
import pytest
import requests
from hypothesis import strategies as st

BASE_URL, MODEL = os.environ["BASE_URL"], os.environ["MODEL"]
KEY = {"Authorization": f"Bearer {os.environ['API_KEY']}"}
USER = [{"role": "user", "content": "how do I clean the oven?"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "boolean"}}}

ROUTES: dict[str, tuple[int, str, dict[str, Any]]] = {
    "/v1/chat/completions": (4000, "ChatCompletionRequest", {"messages": USER, "max_tokens": 2}),
    "/v1/completions": (3000, "CompletionRequest", {"prompt": "water", "max_tokens": 2}),
    "/v1/responses": (2000, "ResponseRequest", {"input": "water", "max_output_tokens": 2}),
    "/tokenize": (500, "TokenizeChat", {"messages": USER}),
    "/detokenize": (500, "DetokenizeRequest", {"tokens": [5, 6]}),
}
"""Bodies to each route, the schema that names its fields, and what is sent where nothing is changed."""

TOGETHER = 10
"""Bodies that are sent at the same time."""

WORDS = (
    *(
        "role",
        "content",
        "type",
        "text",
        "name",
        "id",
        "helpful",
        "harmless",
        "beta",
        "method",
        "report",
        "function",
    ),
    *(
        "arguments",
        "schema",
        "json_schema",
        "properties",
        "parameters",
        "tools",
        "include_usage",
        "tool_calls",
    ),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-1, 20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(0, 1)
    | texts
    | st.sampled_from(
        ["user", "assistant", "tool", "tokens", "auto", "required", "genarm", MODEL, f"{MODEL}:kind"]
    )
    | st.sampled_from([10**40, 1e300, USER, [TOOL], FORMAT, "x" * 3000, [[5, 6], [7]]]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | texts, inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module", autouse=True)
def canary() -> Iterator[None]:
    """A seeded, guided request that is asked again and again beside them."""
    asked = {"model": f"{MODEL}:kind", "messages": USER, "seed": 7, "ignore_eos": True, "max_tokens": 40}

    def tokens() -> list[int]:
        body = asked | {"return_token_ids": True}
        answer = requests.post(f"{BASE_URL}/v1/chat/completions", json=body, headers=KEY, timeout=120)
        answer.raise_for_status()
        return list(answer.json()["choices"][0]["token_ids"])

    expected, heard, over = tokens(), list[Any](), threading.Event()

    def sing() -> None:
        while not over.wait(0.2):
            try:
                heard.append(tokens())
            except requests.RequestException as error:
                heard.append(error)

    singer = threading.Thread(target=sing)
    singer.start()
    yield
    over.set()
    singer.join()
    assert len(expected) == asked["max_tokens"]
    assert len(heard) > 10
    assert [song for song in heard if song != expected] == []


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    document = requests.get(f"{BASE_URL}/openapi.json", headers=KEY, timeout=60).json()
    return dict(document["components"]["schemas"])


def changed(body: dict[str, Any], names: list[str]) -> st.SearchStrategy[bytes]:
    """``body`` with some fields replaced, or torn somewhere; or something else altogether."""
    changes = st.dictionaries(st.sampled_from(names) | texts, values, min_size=1, max_size=4)
    bodies = changes.map(lambda fields: json.dumps(kept_short({**body, **fields})).encode())

    def torn(written: bytes, at: int, inserted: bytes) -> bytes:
        at %= len(written)
        return written[:at] + inserted + written[at + 1 :]

    cuts = st.builds(torn, bodies, st.integers(0, 10_000), st.binary(max_size=2))
    return bodies | bodies | bodies | cuts | values.map(lambda value: json.dumps(value).encode())


def kept_short(body: dict[str, Any]) -> dict[str, Any]:
    """A short answer, lest most of the time be spent on long ones."""
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if name in body:
            asked = body[name]
            body[name] = 2 if asked is None or (isinstance(asked, int) and asked > 4) else asked
    return body


@pytest.mark.parametrize("path", ROUTES)
def test_any_body_may_come(path: str, schemas: dict[str, Any]) -> None:
    count, schema, needed = ROUTES[path]
    body = {"model": MODEL, **needed}
    names = sorted(schemas[schema]["properties"])
    statuses: dict[int, int] = {}
    session = requests.Session()
    session.headers.update(KEY | {"content-type": "application/json"})
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=TOGETHER))

    @hypothesis.settings(
        max_examples=count // TOGETHER,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.seed(len(path))
    @hypothesis.given(st.lists(changed(body, names), min_size=TOGETHER, max_size=TOGETHER))
    def run(contents: list[bytes]) -> None:
        for response in pool.map(send, contents):
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
            check(response)

    def send(content: bytes) -> requests.Response:
        return session.post(f"{BASE_URL}{path}", data=content, timeout=120)

    with ThreadPoolExecutor(TOGETHER) as pool:
        run()
    assert sum(statuses.values()) >= count
    assert statuses.get(200, 0) > count / 200  # some of them are sensible


def check(response: requests.Response) -> None:
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert len(response.content) < 4096
        assert "Traceback" not in response.text
