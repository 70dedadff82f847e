"""A floor is bytes over the fastest bandwidth seen."""

import pytest
import torch

from server.bench import bandwidth
from server.bench.bandwidth import Bandwidth, measure_bandwidth
from server.bench.scenarios.floor import Floor


def test_a_copy_moves_every_byte_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.5, 0.1])
    monkeypatch.setattr(bandwidth, "_best_seconds", lambda *_: next(seconds))
    measured = measure_bandwidth(torch.device("cpu"), size=1 << 20)
    assert measured == Bandwidth(2 * (1 << 20) / 0.5, (1 << 20) / 0.1)
    assert measured.best == measured.read


def test_the_best_probe_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 3.0, 10.0, 11.0, 20.0, 22.0])
    monkeypatch.setattr(bandwidth.time, "perf_counter", lambda: next(clock))
    calls: list[int] = []
    assert bandwidth._best_seconds(lambda: calls.append(1), torch.device("cpu"), 3) == 1.0
    assert len(calls) == 4  # one to warm up


def test_it_measures_something_of_this_machine() -> None:
    measured = measure_bandwidth(torch.device("cpu"), size=8 << 20, repeats=2)
    assert 1e7 < measured.copy < 1e13
    assert 1e7 < measured.read < 1e13


def test_the_share_is_the_floor_over_the_median_step() -> None:
    floor = Floor(10**9, Bandwidth(copy=1e9, read=2e9), (0.9, 1.0, 7.0), bar=0.7)
    assert floor.floor == 0.5
    assert floor.share == 0.5
    assert not floor.reached
    assert Floor(10**9, Bandwidth(copy=1e9, read=2e9), (0.7,), bar=0.7).reached
    assert Floor(10**9, Bandwidth(copy=1e9, read=2e9), (7.0,), bar=None).reached
