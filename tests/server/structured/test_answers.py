"""Random schemas over a socket: whatever the weights, the answer is JSON of the schema or was cut off."""

import contextlib
import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from server.config import read_deployment
from server.runtime import load_runtime

REQUESTS = 200


@pytest.fixture(scope="module")
def server(
    make_checkpoint: Callable[..., Path], serve: Callable[..., contextlib.AbstractContextManager[Any]]
) -> Iterator[Any]:
    """A base and two rewards that read 1024 tokens."""
    room: dict[str, Any] = {"max_position_embeddings": 1024}
    declared = {
        "model": "tiny",
        "base": {"model": str(make_checkpoint("llama", "answers-base", seed=1, **room))},
        "rewards": [
            {"name": "helpful", "model": str(make_checkpoint("llama", "answers-helpful", seed=2, **room))},
            {"name": "harmless", "model": str(make_checkpoint("qwen3", "answers-harmless", seed=3, **room))},
        ],
    }
    with serve(read_deployment(declared, "test"), load_runtime) as serving:
        yield serving


@pytest.mark.slow
def test_200_random_schemas_under_random_weights_are_answered_with_json_of_them(
    server: Any, a_schema: Callable[[random.Random, int], dict[str, Any]]
) -> None:
    def reason(seed: int) -> str:
        draw = random.Random(seed)
        schema = a_schema(draw, 2)
        response = server.chat(
            response_format={"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}},
            preferences={"helpful": draw.uniform(-2, 2), "harmless": draw.uniform(-2, 2)},
            temperature=draw.choice([0, 0.7, 1.5]),
            seed=seed,
            max_tokens=300,
        )
        assert response.status_code == 200, (response.text, schema)
        (choice,) = response.json()["choices"]
        if choice["finish_reason"] == "stop":
            checker = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
            assert checker.is_valid(json.loads(choice["message"]["content"])), (schema, choice)
        return str(choice["finish_reason"])

    with ThreadPoolExecutor(16) as pool:
        reasons = list(pool.map(reason, range(REQUESTS)))
    assert set(reasons) <= {"stop", "length"}
    assert reasons.count("stop") > REQUESTS * 0.8
