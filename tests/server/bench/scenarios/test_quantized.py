"""Fewer bits are compared with float32 on the same texts, and only where the CPU has them."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from server.bench.comparison import Comparison
from server.bench.rounding import Rounding
from server.bench.scenarios import quantized
from server.bench.scenarios.quantized import rounding, speed_of_int8
from server.bench.setup import Setup
from server.bench.shapes import Models

needs_vnni = pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="this CPU has no fast int8")


@needs_vnni
def test_every_member_is_compared_in_either_dtype_at_every_token(make_setup: Callable[..., Setup]) -> None:
    setup = make_setup()
    found = rounding(setup)
    assert [(one.member, one.dtype) for one in found] == [
        (name, dtype) for dtype in ("bfloat16", "int8") for name in ("base", *setup.rewards)
    ]
    requests = setup.workload.build(2048, [], guided=False)
    tokens = sum(request.sampling.max_tokens for request in requests)
    for one in found:
        assert one.record()["tokens"] == tokens
        assert 0 < one.mean < 0.01


def test_a_dtype_that_changes_nothing_is_at_zero(
    make_setup: Callable[..., Setup], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "_dtypes", lambda: ["bfloat16"])
    held = quantized._held
    monkeypatch.setattr(quantized, "_held", lambda setup, _dtype: held(setup, "float32"))
    assert all(max(one.divergences) < 1e-9 for one in rounding(make_setup()))


@needs_vnni
def test_int8_runs_against_both_others_alone_and_in_the_batch(make_setup: Callable[..., Setup]) -> None:
    found: Sequence[Any] = speed_of_int8(make_setup(runs=2))
    assert [one.name for one in found] == [
        f"int8 against {dtype} at {count}" for count in (1, 2) for dtype in ("float32", "bfloat16")
    ]
    for one in found:
        assert isinstance(one, Comparison)
        assert len(one.our_rates) == len(one.peer_rates) == 2


def test_there_is_nothing_to_find_where_the_machine_has_no_int8(
    make_setup: Callable[..., Setup], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    setup = make_setup()
    assert {one.dtype for one in rounding(setup)} == {"bfloat16"}
    assert speed_of_int8(setup) == []


def test_on_a_gpu_there_is_nothing_to_find(
    make_setup: Callable[..., Setup], models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "device", "cuda:0")
    setup = make_setup()
    assert (rounding(setup), speed_of_int8(setup)) == ([], [])


def test_the_mean_decides_and_the_tail_is_told() -> None:
    divergences = (*[0.001] * 99, 0.1)
    result = Rounding("base", "int8", divergences, bar=0.0019)
    assert result.mean == pytest.approx(0.00199)
    assert not result.reached
    assert result.record()["largest"] == 0.1
    assert result.row().spread == "p99 2.0e-03, max 1.0e-01"
    assert Rounding("base", "int8", divergences, bar=0.002).reached
