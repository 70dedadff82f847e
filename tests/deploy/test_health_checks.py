"""The checks of image and compose, run as they stand: what they say of a server is what it answers."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def answering() -> Iterator[Callable[[int], int]]:
    """``answering(status)``: the port of a server that answers everything so."""
    servers: list[HTTPServer] = []

    def start(status: int) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path in ("/health", "/ready") else 500)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return int(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def checks(root: Path, compose: Callable[..., dict[str, Any]]) -> list[list[str]]:
    (image,) = (
        line
        for line in (root / "Dockerfile").read_text(encoding="utf-8").splitlines()
        if line[:8] == "    CMD "
    )
    word, *composed = compose("docker-compose.yml")["services"]["server"]["healthcheck"]["test"]
    assert word == "CMD"
    return [json.loads(image.removeprefix("    CMD ")), composed]


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_a_check_says_what_the_server_answers_whatever_proxy_there_is(
    root: Path,
    compose: Callable[..., dict[str, Any]],
    answering: Callable[[int], int],
    status: int,
    healthy: bool,
) -> None:
    port = answering(status)
    proxied = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy"), NOBODY)
    for program, *given in checks(root, compose):
        assert program == "python"
        command = [sys.executable, *(one.replace(":8000", f":{port}") for one in given)]
        done = subprocess.run(
            command, env={**os.environ, **proxied}, capture_output=True, check=False, timeout=30
        )
        assert (done.returncode == 0) == healthy, done.stderr
