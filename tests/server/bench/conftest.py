"""Tiny models and short work for the benchmark's tests."""

from collections.abc import Callable

import pytest

from server.bench.setup import Limits, Setup
from server.bench.shapes import Models
from server.bench.workload import Workload


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Random weights of the shape "tiny"."""
    return Models("tiny", tmp_path_factory.mktemp("bench-models"))


@pytest.fixture
def ticks() -> list[int]:
    """One entry for every part of a scenario that was done."""
    return []


@pytest.fixture
def make_setup(models: Models, ticks: list[int]) -> Callable[..., Setup]:
    """``make_setup(rewards=2, **fields of Setup)``: two short requests, one counted run."""

    def make(rewards: int = 2, runs: int = 1, requests: int = 2, limits: Limits | None = None) -> Setup:
        workload = Workload(requests, prompt=(4, 12), response=(6, 10))
        quick = limits or Limits(peer_requests=1, quick=True)
        return Setup(models, rewards, workload, runs, lambda: ticks.append(1), quick)

    return make
