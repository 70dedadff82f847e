"""The command itself, as users start it: ``genarm serve`` in a process of its own, on tiny checkpoints."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

KEY = "sk-test"


class Process:
    """A ``genarm serve``; ``url`` is where. What it prints is read as it comes: a full pipe would stop it."""

    def __init__(self, config: Path, *flags: str) -> None:
        command = [
            sys.executable,
            "-m",
            "server.cli",
            "serve",
            "--config",
            str(config),
            "--port",
            "0",
            *flags,
        ]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._first = self._lines.get(timeout=60)
        urls = [word.rstrip(",") for word in self._first.split() if word.startswith("http")]
        assert urls, self.rest()
        self.url = urls[0]

    def wait_until_ready(self) -> "Process":
        deadline = time.monotonic() + 90
        while httpx.get(f"{self.url}/ready", timeout=60).status_code != 200:  # importing may hold it up
            assert self.process.poll() is None, self.rest()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return self

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def rest(self) -> str:
        """Waits for the end; everything that was printed."""
        self.process.wait(timeout=60)
        self._reader.join(timeout=60)
        return self._first + "".join(self._lines.get() for _ in range(self._lines.qsize()))

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.rest()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as printed:
            for line in printed:
                self._lines.put(line)


@pytest.fixture(scope="session")
def config(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment of a base and two rewards, with a preset and keys."""
    folder = tmp_path_factory.mktemp("deployment")
    (folder / "keys").write_text(f"{KEY}\n")
    path = folder / "deployment.yaml"
    path.write_text(
        f"""
model: tiny
base: {make_checkpoint("llama", "client-base", seed=1, layers=8)}
rewards:
  - {{name: helpful, model: {make_checkpoint("llama", "client-helpful", seed=2)}, default: 1.0}}
  - {{name: harmless, model: {make_checkpoint("qwen3", "client-harmless", seed=3)}, default: 0.0}}
presets:
  kind: {{harmless: 2.0}}
threads: 1
http: {{api_key_file: keys, drain_seconds: 60.0}}
"""
    )
    return path


@pytest.fixture
def start(config: Path) -> Iterator[Callable[..., Process]]:
    """``start(*flags)``: a process of one's own; killed at the end if it still runs."""
    started: list[Process] = []

    def make(*flags: str) -> Process:
        started.append(Process(config, *flags))
        return started[-1]

    yield make
    for process in started:
        process.kill()


@pytest.fixture(scope="session")
def launch() -> Iterator[Callable[..., Process]]:
    """``launch(config, *flags)``: a process that lives until the session ends, for whoever shares it."""
    launched: list[Process] = []

    def make(config: Path, *flags: str) -> Process:
        launched.append(Process(config, *flags))
        return launched[-1]

    yield make
    for process in launched:
        process.kill()


@pytest.fixture(scope="session")
def served(launch: Callable[..., Process], config: Path) -> Process:
    """A shared process that is ready."""
    return launch(config).wait_until_ready()


@pytest.fixture(scope="session")
def key() -> str:
    return KEY
