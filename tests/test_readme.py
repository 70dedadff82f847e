"""What the README tells people to type works, against the shipped demo server."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def example(language: str) -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return str(block)


@pytest.fixture(scope="module")
def demo_url() -> Iterator[str]:
    """`genarm serve` without arguments, on a free port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "server.cli", "serve", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        url = next(word for word in process.stdout.readline().split() if word.startswith("http")).rstrip(",")
        deadline = time.monotonic() + 120
        while httpx.get(f"{url}/ready").status_code != 200:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=60)


def typed(command: str) -> str:
    """What the command prints; where there is no curl, the same request is sent without it."""
    if shutil.which("curl") and shutil.which("bash"):
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout
    program, silent, url, flag, header, data, content = shlex.split(command)
    assert (program, silent, flag, data) == ("curl", "-s", "-H", "-d")
    name, value = header.split(": ")
    return httpx.post(url, content=content.encode(), headers={name: value}, timeout=120).text


def test_the_curl_example_answers(demo_url: str) -> None:
    body = json.loads(typed(example("bash").replace("http://127.0.0.1:8000", demo_url)))
    assert body["choices"][0]["message"]["content"]
    assert body["guidance"]["preferences"] == {"helpful": 0.5, "harmless": 1.0, "concise": 0.0}


def test_the_openai_client_example_streams(demo_url: str) -> None:
    program = example("python").replace("http://127.0.0.1:8000", demo_url)
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=environment,
    )
    assert len(done.stdout.split()) > 3


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
