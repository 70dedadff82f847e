"""What holds behind a soak: answers are right, nothing is held, memory is flat, /health is quick."""

import asyncio
import time
from collections.abc import Sequence

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.faults.readers import Heard, read_body
from tests.faults.swaps import leaving
from tests.faults.traffic import CODES, Asked

TIE = 1e-3
"""Nats by which a greedy token may be behind the best: a text read at once rounds otherwise than one drawn token by token."""

AGAIN = 3
"""How often more to ask where a server that does nothing else had no time: the machine was busy with something."""


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
    plain = Asked(asked.kind, asked.path, {**asked.body, "stream": False})
    again = await read_body(client, plain, None)
    for _ in range(AGAIN):
        if again.status not in CODES:
            break
        again = await read_body(client, plain, None)
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
    """What a server that nobody asks anything still has in hand after so many seconds; ``client`` is an administrator's."""
    deadline = time.monotonic() + seconds
    while left := [*await leaving(client), *_held(await metrics(client))]:
        if time.monotonic() > deadline:
            return left
        await asyncio.sleep(0.1)
    return []


async def metrics(client: httpx.AsyncClient) -> list[Sample]:
    """What /metrics says."""
    text = (await client.get("/metrics", timeout=60)).text
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def failures(samples: Sequence[Sample]) -> dict[int, int]:
    """By status, how many requests the server says that it answered with an error."""
    return {
        int(sample.labels["status"]): int(sample.value)
        for sample in samples
        if sample.name == "genarm_request_failure_total"
    }


def _held(samples: Sequence[Sample]) -> list[str]:
    names = {"genarm_num_requests_running", "genarm_num_requests_waiting", "genarm_kv_cache_usage_perc"}
    gauges = [sample for sample in samples if sample.name in names]
    assert {sample.name for sample in gauges} == names
    return [f"{sample.name} {sample.labels} {sample.value}" for sample in gauges if sample.value]


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
