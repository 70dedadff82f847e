"""What a model takes is told by its files' headers; what is left, by the machine and the container."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from arm_models.errors import CheckpointError
from arm_models.loading import ModelSource, footprint, free_bytes, weight_bytes


def test_weights_are_counted_as_they_are_held(
    make_checkpoint: Callable[..., Path], make_adapter: Callable[..., Path]
) -> None:
    folder = make_checkpoint("llama", "footprint", seed=1)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    values = sum(one.numel() for one in model.parameters())
    assert weight_bytes(ModelSource("a", str(folder))) == 4 * values
    assert weight_bytes(ModelSource("a", str(folder), dtype="bfloat16")) == 2 * values
    adapter = weight_bytes(ModelSource("a", str(make_adapter(folder, "footprint-adapter", 2))))
    assert 4 * values < adapter < 8 * values, "the adapter and a backbone of its own"
    with pytest.raises(CheckpointError, match="a: no folder"):
        weight_bytes(ModelSource("a", str(folder / "nothing")))


@pytest.mark.parametrize(
    ("limit", "left"), [("6000", 6000 - 5000 + 700), ("max", 4096 * 1024), (None, 4096 * 1024)]
)
def test_what_is_left_is_the_least_of_machine_and_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str | None, left: int
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9999 kB\nMemFree: 1 kB\nMemAvailable:    4096 kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text("5000\n")
        (tmp_path / "memory.stat").write_text("anon 4000\nfile 900\ninactive_file 700\n")
    monkeypatch.setattr(footprint, "MEMINFO", meminfo)
    monkeypatch.setattr(footprint, "CGROUP", tmp_path)
    assert free_bytes(torch.device("cpu")) == left


def test_a_system_that_does_not_tell_sets_no_bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(footprint, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(footprint, "CGROUP", tmp_path)
    assert free_bytes(torch.device("cpu")) is None
