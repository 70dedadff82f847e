"""``genarm serve`` over several processes, as users start it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process import Process

ROOT = Path(__file__).parents[3]


class Group(Process):
    """A ``genarm serve`` that has started the processes of a group."""

    def pid_of(self, rank: int) -> int:
        """Of one of them."""
        return self.pids()[rank]

    def pids(self) -> dict[int, int]:
        """By rank."""
        parent = self.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        found: dict[int, int] = {}
        for child in children:
            environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            rank = next(entry for entry in environment if entry.startswith(b"RANK="))
            found[int(rank.removeprefix(b"RANK="))] = int(child)
        return found

    def kill_rank(self, rank: int) -> None:
        """As the kernel's out-of-memory killer does."""
        os.kill(self.pid_of(rank), signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits for its parent to hear of its end does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def gone(pids: list[int], seconds: float = 10.0) -> bool:
    """Whether all of them have ended by then."""
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)


@pytest.fixture(scope="session")
def config(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and rewards, one for all ranks and one for rank 1."""
    path = tmp_path_factory.mktemp("group") / "deployment.yaml"
    path.write_text(
        f"""
model: tiny
base: {{model: {make_checkpoint("llama", "group-base", seed=1, layers=8)}, tensor_parallel: 2}}
rewards:
  - {{name: helpful, model: {make_checkpoint("llama", "group-helpful", seed=2)}, rank: all}}
  - {{name: harmless, model: {make_checkpoint("qwen3", "group-harmless", seed=3)}, default: 0.5, rank: 1}}
threads: 1
http: {{drain_seconds: 60.0}}
"""
    )
    return path


@pytest.fixture(scope="session")
def alone(config: Path) -> Path:
    """The same in one process."""
    path = config.with_name("alone.yaml")
    declared = config.read_text()
    for word in (", tensor_parallel: 2", ", rank: all", ", rank: 1"):
        assert word in declared
        declared = declared.replace(word, "")
    path.write_text(declared)
    return path


@pytest.fixture
def start(config: Path) -> Iterator[Callable[..., Group]]:
    """``start(*flags, config=…)``: a group of one's own; killed at the end if it still runs."""
    started: list[Group] = []

    def make(*flags: str, declared: Path = config, **options: Any) -> Group:
        started.append(Group(declared, *flags, **options))
        return started[-1]

    yield make
    for group in started:
        with contextlib.suppress(OSError):
            for pid in group.pids().values():
                os.kill(pid, signal.SIGKILL)
        group.kill()


def run(*command: str, environment: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """``genarm`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "server.cli", *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
