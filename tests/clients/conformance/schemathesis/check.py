"""Schemathesis asks every operation of /openapi.json everything, sensible and not, while another request runs.

Whatever it sends: no 5xx, every error in OpenAI's shape, bad data refused, and the other request keeps its tokens.
"""

import os
import threading
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

BASE_URL, MODEL = os.environ["BASE_URL"], os.environ["MODEL"]
KEY = {"Authorization": f"Bearer {os.environ['API_KEY']}"}
EXAMPLES = 200
SHORT = 8
"""Tokens of an answer: what is asked is what is tested here, not how long it takes."""
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]


def operations(mode: GenerationMode) -> Any:
    """All operations, with data of this kind; the same in every run."""
    schema = schemathesis.openapi.from_url(f"{BASE_URL}/openapi.json", headers=KEY)
    schema.config.generation.update(modes=[mode], deterministic=True, no_shrink=True)
    return schema


thorough = hypothesis.settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(hypothesis.HealthCheck), database=None
)


@pytest.fixture(scope="module", autouse=True)
def canary() -> Iterator[None]:
    """A seeded, guided request that is asked again and again beside the tests."""
    body = {
        "model": f"{MODEL}:kind",
        "messages": [{"role": "user", "content": "how do I clean the oven?"}],
        "max_tokens": 40,
        "seed": 7,
        "ignore_eos": True,
        "return_token_ids": True,
    }

    def tokens() -> list[int]:
        answer = requests.post(f"{BASE_URL}/v1/chat/completions", json=body, headers=KEY, timeout=120)
        answer.raise_for_status()
        return list(answer.json()["choices"][0]["token_ids"])

    expected, heard, over = tokens(), list[Any](), threading.Event()

    def sing() -> None:
        while not over.wait(0.5):
            try:
                heard.append(tokens())
            except requests.RequestException as error:
                heard.append(error)

    singer = threading.Thread(target=sing)
    singer.start()
    yield
    over.set()
    singer.join()
    assert len(expected) == body["max_tokens"]
    assert heard
    assert [song for song in heard if song != expected] == []


@operations(GenerationMode.POSITIVE).parametrize()
@thorough
def test_good_data(case: schemathesis.Case) -> None:
    answer(case)


@operations(GenerationMode.NEGATIVE).parametrize()
@thorough
def test_bad_data(case: schemathesis.Case) -> None:
    case.validate_response(answer(case), checks=[negative_data_rejection])


def answer(case: schemathesis.Case) -> Any:
    """What the server says to this; asserts what holds for every answer."""
    if isinstance(case.body, dict) and case.path.startswith("/v1/"):
        reach_the_engine(case.body)
    response = case.call(headers=KEY, timeout=120)
    case.validate_response(response, checks=CHECKS)
    if not response.headers["content-type"][0].startswith("text/event-stream"):
        case.validate_response(response, checks=[response_schema_conformance])
    if response.status_code >= 400:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert isinstance(error["type"], str)
        assert isinstance(error["param"], str | None)
        assert isinstance(error["code"], str | None)
        assert len(response.content) < 4096
        assert "Traceback" not in response.text
    return response


def reach_the_engine(body: dict[str, Any]) -> None:
    """A model that exists and a short answer, lest all but a few requests end as 404 or take seconds."""
    if isinstance(body.get("model"), str):
        body["model"] = MODEL
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if isinstance(body.get(name), int) and SHORT < body[name] < 2**31:  # beyond, it is bad data
            body[name] = SHORT
    if "messages" in body or "prompt" in body:
        body.setdefault("max_tokens", SHORT)
    elif "input" in body:
        body.setdefault("max_output_tokens", SHORT)
