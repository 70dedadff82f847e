"""The command itself, as users start it: ``genarm serve`` in a process of its own, on tiny checkpoints."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process import Process

KEY = "sk-test"


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
    """``start(*flags, module=…)``: a process of one's own; killed at the end if it still runs."""
    started: list[Process] = []

    def make(*flags: str, **options: Any) -> Process:
        started.append(Process(config, *flags, **options))
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
