"""An engine that dies takes nobody by surprise: one error each, then a process that its supervisor starts again."""

import json
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.faults.fault import POINTS, SECRET
from tests.faults.streams import BODY, Stream


def launched(point: str, call: int) -> tuple[str, ...]:
    return ("tests.faults.launcher", point, str(call))


@pytest.mark.parametrize(
    "point", [point if point == "decode" else pytest.param(point, marks=pytest.mark.slow) for point in POINTS]
)
def test_everybody_in_flight_is_told_once_and_a_restart_serves(
    start: Callable[..., Any], key: str, point: str
) -> None:
    process = start(module=launched(point, 1 if point == "prefill" else 3)).wait_until_ready()
    streams = [Stream(process.url, key, max_tokens=200, seed=seed) for seed in range(4)]
    for stream in streams:
        stream.began()
    process.signal(signal.SIGUSR1)
    if point == "prefill":
        streams.append(Stream(process.url, key, max_tokens=200))
    told = [stream.whole() for stream in streams]
    began = time.monotonic()
    for events in told:
        assert "[DONE]" not in events
        assert [list(json.loads(event)) == ["error"] for event in events].count(True) == 1
        error = json.loads(events[-1])["error"]
        assert (set(error), error["code"]) == ({"message", "type", "param", "code"}, "engine_dead")
        assert SECRET not in str(events)
    with httpx.Client(base_url=process.url, headers={"authorization": f"Bearer {key}"}) as client:
        assert client.get("/health").status_code == 503
        assert client.get("/ready").status_code == 503
        refused = client.post("/v1/chat/completions", json=BODY)
        assert (refused.status_code, bool(refused.headers["retry-after"])) == (503, True)
    assert process.process.wait(30) == 1
    assert time.monotonic() - began < 5
    if point != "decode":
        return
    again = start().wait_until_ready()
    # As far as it came, the lost answer was right.
    lost = said(told[2][:-1])
    whole = Stream(again.url, key, max_tokens=60, seed=2).whole()
    assert whole[-1] == "[DONE]"
    length = min(len(lost), len(said(whole)))
    assert lost[:length] == said(whole)[:length] != ""


def said(events: list[str]) -> str:
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
