"""The process: one clear line when it is ready, one when it cannot be, and an orderly end."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

BODY: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hello"}],
    "stream": True,
    "ignore_eos": True,
    "seed": 1,
    "max_tokens": 230,
}


def stream(url: str, key: str, began: threading.Semaphore) -> list[str]:
    events: list[str] = []
    with httpx.stream(
        "POST",
        f"{url}/v1/chat/completions",
        json=BODY,
        headers={"authorization": f"Bearer {key}"},
        timeout=90,
    ) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                events.append(line.removeprefix("data: "))
                began.release()
    return events


def test_from_loading_to_sigterm_with_streams_that_finish(start: Callable[..., Any], key: str) -> None:
    process = start()
    assert httpx.get(f"{process.url}/health").status_code == 200
    assert httpx.get(f"{process.url}/ready").status_code in (200, 503)
    process.wait_until_ready()
    began = threading.Semaphore(0)
    results: list[list[str]] = []
    readers = [
        threading.Thread(target=lambda: results.append(stream(process.url, key, began))) for _ in range(4)
    ]
    for reader in readers:
        reader.start()
    for _ in range(40):  # ten events each: all four are under way
        assert began.acquire(timeout=30)
    process.signal(signal.SIGTERM)
    deadline = time.monotonic() + 10
    while httpx.get(f"{process.url}/ready").status_code != 503:
        assert time.monotonic() < deadline
    for reader in readers:
        reader.join(90)
    assert [events[-1] for events in results] == ["[DONE]"] * 4
    assert [json.loads(events[-2])["choices"][0]["finish_reason"] for events in results] == ["length"] * 4
    printed = process.rest()
    assert process.process.returncode == 0
    assert f"genarm: ready on {process.url} (model tiny; rewards helpful, harmless)\n" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    "headers",
    [b"x-a: " + b"b" * 1_000_000, b"\r\n".join(b"x-%d: b" % number for number in range(100_000))],
    ids=["one of a megabyte", "a hundred thousand"],
)
def test_a_flood_of_headers_is_refused_before_it_is_all_there(served: Any, headers: bytes) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n" + headers)  # and no end of them
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(4096):
                answer += part
    assert answer == b"" or answer.split()[1] in (b"400", b"431")
    assert httpx.get(f"{served.url}/health").status_code == 200


def test_a_second_signal_ends_at_once(start: Callable[..., Any], key: str) -> None:
    process = start().wait_until_ready()
    began = threading.Semaphore(0)

    def read() -> None:
        with pytest.raises(httpx.HTTPError):
            stream(process.url, key, began)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert began.acquire(timeout=30)
    process.signal(signal.SIGTERM)
    time.sleep(0.1)
    begun = time.monotonic()
    process.signal(signal.SIGTERM)
    process.process.wait(10)
    assert time.monotonic() - begun < 2
    process.rest()


def test_models_that_cannot_be_loaded_are_one_line_and_exit_code_2(config: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "server.cli",
            "serve",
            "--config",
            str(config),
            "--reward",
            "helpful=/nope/model",
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("genarm: ")
    assert "/nope/model" in last


def test_a_dead_engine_ends_the_process_after_everybody_was_told(config: Path, key: str) -> None:
    """A forward that raises in mid-answer: one error per request, then exit code 1, which a supervisor restarts."""
    code = """
import itertools, sys
from server import cli
from server.engine import Engine
steps, step = itertools.count(), Engine.step
def failing(self):
    if next(steps) == 20:
        raise RuntimeError("/secret: a fault in the device")
    return step(self)
Engine.step = failing
sys.exit(cli.main(sys.argv[1:]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", "--config", str(config), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[3].rstrip(",")
        assert "ready on" in process.stdout.readline()
        events = stream(url, key, threading.Semaphore(0))
        assert "error" in json.loads(events[-1])
        assert "secret" not in events[-1]
        assert len(events) > 3
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}) as client:
            assert client.get("/health").status_code == 503
            assert client.post("/v1/chat/completions", json=BODY).status_code == 503
        assert process.wait(30) == 1
    finally:
        process.kill()
        process.communicate()
