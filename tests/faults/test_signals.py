"""SIGTERM: what runs is finished, nothing new is taken, whoever asks twice does not wait; kill -9 leaves nothing torn."""

import hashlib
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.config import read_config_file
from tests.faults.streams import BODY, Stream


def test_twenty_streams_finish_after_sigterm_and_nothing_new_is_taken(
    start: Callable[..., Any], key: str
) -> None:
    process = start()
    # Importing may hold these up.
    assert httpx.get(f"{process.url}/health", timeout=60).status_code == 200
    assert httpx.get(f"{process.url}/ready", timeout=60).status_code in (200, 503)
    process.wait_until_ready()
    streams = [Stream(process.url, key, max_tokens=80, seed=seed) for seed in range(20)]
    for stream in streams:
        stream.began()
    process.signal(signal.SIGTERM)
    deadline = time.monotonic() + 10
    with httpx.Client(base_url=process.url, headers={"authorization": f"Bearer {key}"}) as client:
        while client.get("/ready").status_code != 503:
            assert time.monotonic() < deadline
        refused = client.post("/v1/chat/completions", json=BODY)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert refused.headers["retry-after"]
        assert client.get("/health").status_code == 200
    told = [stream.whole() for stream in streams]
    assert [events[-1] for events in told] == ["[DONE]"] * 20
    assert [json.loads(events[-2])["choices"][0]["finish_reason"] for events in told] == ["length"] * 20
    printed = process.rest()
    assert process.process.returncode == 0
    assert f"genarm: ready on {process.url} (model tiny; rewards helpful, harmless)\n" in printed
    assert "Traceback" not in printed
    assert "to drain are over" not in printed


def test_a_second_signal_ends_at_once(start: Callable[..., Any], key: str) -> None:
    process = start().wait_until_ready()
    stream = Stream(process.url, key, max_tokens=230).began()
    process.signal(signal.SIGTERM)
    time.sleep(0.1)
    begun = time.monotonic()
    process.signal(signal.SIGTERM)
    process.process.wait(10)
    assert time.monotonic() - begun < 2
    stream.whole()
    assert stream.broken is not None
    process.rest()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)], ids=["TERM", "INT"]
)
def test_a_signal_while_models_load_ends_at_once(start: Callable[..., Any], number: int) -> None:
    """It listens already; torch is being imported in another thread."""
    process = start()
    process.signal(number)
    begun = time.monotonic()
    process.process.wait(30)
    assert time.monotonic() - begun < 5
    printed = process.rest()
    assert process.process.returncode == 0, printed
    assert "Traceback" not in printed
    assert "ready on" not in printed


def files(config: Path) -> dict[str, tuple[float, str]]:
    """When each file of a deployment was last written, and what it holds."""
    declared = read_config_file(config)
    folders = [config.parent, *(Path(one["model"]) for one in (declared["base"], *declared["rewards"]))]
    return {
        str(path): (path.stat().st_mtime, hashlib.sha256(path.read_bytes()).hexdigest())
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
def test_after_kill_9_nothing_is_torn_and_it_is_ready_again_on_the_same_port(
    start: Callable[..., Any], config: Path, key: str
) -> None:
    before = files(config)
    assert len(before) > 6
    process = start().wait_until_ready()
    whole = Stream(process.url, key, max_tokens=60).whole()
    streams = [Stream(process.url, key, max_tokens=200, seed=seed) for seed in range(4)]
    for stream in streams:
        stream.began()
    process.signal(signal.SIGKILL)
    for stream in streams:
        assert "[DONE]" not in stream.whole()
    process.rest()
    assert files(config) == before
    again = start("--port", process.url.rpartition(":")[2]).wait_until_ready()
    assert again.url == process.url
    once_more = Stream(again.url, key, max_tokens=60).whole()
    assert [texts(event) for event in once_more] == [texts(event) for event in whole]


def texts(event: str) -> Any:
    return event if event == "[DONE]" else json.loads(event)["choices"]
