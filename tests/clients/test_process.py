"""The process: one clear line when it cannot be, and no bytes without end. How it ends: ``tests/faults``."""

import contextlib
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest


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
