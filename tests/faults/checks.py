"""What holds behind a soak: answers are right, nothing is held, memory is flat, /health is quick."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.faults.readers import Heard, read_body
from tests.faults.traffic import Asked

TIE = 1e-3
"""Nats by which a greedy token may be behind the best: a text read at once rounds otherwise than one drawn token by token."""


@dataclass(frozen=True)
class Finding:
    """One line of a soak's table: what was seen, what is allowed, and whether it is."""

    name: str
    seen: str
    allowed: str
    good: bool


async def exact(client: httpx.AsyncClient, samples: Sequence[tuple[Asked, Heard]]) -> list[str]:
    """What is wrong with answers, each asked again on a server that has nothing else to do."""
    wrong = []
    for asked, heard in samples:
        found = await (_wrong_steered if asked.kind == "steered" else _wrong)(client, asked, heard)
        if found:
            wrong.append(f"{asked.kind}: {found}; asked {asked.sent[:300]!r}")
    return wrong


async def _wrong(client: httpx.AsyncClient, asked: Asked, heard: Heard) -> str:
    """How a seeded answer differs from the same request's alone."""
    plain = {**asked.body, "stream": False}
    again = await read_body(client, Asked(asked.kind, asked.path, plain), None)
    if again.status != 200:
        return f"asked again, {again.status}: {again.error}"
    return "" if again.choices == heard.choices else f"{heard.choices} and again {again.choices}"


async def _wrong_steered(client: httpx.AsyncClient, asked: Asked, heard: Heard) -> str:
    """Where a greedy answer has a token that is not the best under the preferences that held for it."""
    prompt, tokens = asked.body["prompt"], heard.choices[0].tokens
    if len(tokens) != asked.body["max_tokens"]:
        return f"{len(tokens)} tokens of {asked.body['max_tokens']}"
    ends = [*(start for start, _ in heard.changes[1:]), len(tokens)]
    for (start, preferences), end in zip(heard.changes, ends, strict=True):
        body = asked.body | {
            "prompt": [*prompt, *tokens],
            "preferences": preferences,
            "echo": True,
            "max_tokens": 0,
            "logprobs": 1,
            "stream": False,
            "return_token_ids": False,
        }
        response = await client.post(asked.path, json=body, timeout=120)
        if response.status_code != 200:
            return f"read again, {response.status_code}: {response.text}"
        told = response.json()["choices"][0]["logprobs"]
        for place in range(len(prompt) + start, len(prompt) + end):
            if told["token_logprobs"][place] < max(told["top_logprobs"][place].values()) - TIE:
                return f"token {place - len(prompt)} is not the best under {preferences}"
    return ""


async def held(client: httpx.AsyncClient, seconds: float = 20.0) -> list[str]:
    """What a server that nobody asks anything still has in hand after so many seconds."""
    deadline = time.monotonic() + seconds
    while left := _held((await client.get("/metrics", timeout=60)).text):
        if time.monotonic() > deadline:
            return left
        await asyncio.sleep(0.1)
    return []


def _held(metrics: str) -> list[str]:
    gauges = ("genarm_num_requests_running", "genarm_num_requests_waiting", "genarm_kv_cache_usage_perc")
    samples = [
        sample
        for family in text_string_to_metric_families(metrics)
        if family.name in gauges
        for sample in family.samples
    ]
    assert {sample.name for sample in samples} == set(gauges)
    return [f"{sample.name} {sample.labels} {sample.value}" for sample in samples if sample.value]


def growth(memory: Sequence[tuple[float, int]], warm_up: float) -> float:
    """By which share resident bytes have grown: the last tenth of the time against the tenth behind the first ``warm_up``
    seconds, the middle value of each."""
    begin, end = memory[0][0] + warm_up, memory[-1][0]
    tenth = (end - begin) / 10
    early = [size for at, size in memory if begin <= at < begin + tenth]
    late = [size for at, size in memory if at >= end - tenth]
    return percentile(late, 0.5) / percentile(early, 0.5) - 1


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of them do not exceed. Raises ``ValueError`` where there is none."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]
