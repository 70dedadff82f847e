"""Searches over a scripted engine."""

from collections.abc import Callable
from typing import Any

import pytest

from server.decoding.search import Answer, Chat, Roles, SearchRequest, Task, run_searches
from server.engine import SamplingParams
from tests.server.decoding.search.scripted import STOP, ScriptedEngine, text_of, tokens

Find = Callable[..., Answer]


def rendered(messages: Any) -> dict[str, tuple[int, ...]]:
    """A template: the last turn, then ">"."""
    prompt = tokens(f"{messages[-1]['content']}>")
    return {"base": prompt, "judge": prompt}


@pytest.fixture
def find() -> Find:
    """``find(method, engine, chat="…", max_tokens=…, seed=…, **parameters)``: the answer of one search, judged by "judge"."""

    def make(method: Any, engine: ScriptedEngine, chat: str = "do it", **fields: Any) -> Answer:
        sampling = {
            name: fields.pop(name)
            for name in ("seed", "temperature", "min_tokens", "logprobs")
            if name in fields
        }
        policy = fields.pop("policy_member", "base")
        task = Task(
            prompts=rendered([{"content": chat}]),
            sampling=SamplingParams(
                fields.pop("max_tokens", 8), stop_token_ids=frozenset({STOP}), **sampling
            ),
            watch=fields.pop("watch", None),
            max_context=fields.pop("max_context", {"base": 10_000}),
            parameters=method.Parameters(**fields),
            roles=Roles({"base": 1.0}, {"judge": 1.0}, policy),
            chat=Chat([{"role": "user", "content": chat}], lambda ids: text_of(ids).removesuffix(".")),
        )
        (answer,) = run_searches(engine, [SearchRequest("s", method, task, rendered)])
        return answer

    return make
