"""A source names a device and a dtype; what is not there is refused before anything is read."""

import pytest
import torch

from arm_models.errors import CheckpointError
from arm_models.loading import ModelSource
from arm_models.loading.source import available_devices, resolve_device, resolve_dtype


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "mps", "CPU", "", "cuda:0 "])
def test_an_unknown_device_is_refused_by_name(device: str) -> None:
    with pytest.raises(CheckpointError, match=r"^helpful: device .* is not known; use cpu or cuda:N$"):
        resolve_device(ModelSource("helpful", "x", device=device))


def test_a_device_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(CheckpointError) as refusal:
        resolve_device(ModelSource("helpful", "x", device="cuda:97"))
    assert str(refusal.value).startswith("helpful: device 'cuda:97' is not there; this machine has cpu")
    assert all(device in str(refusal.value) for device in available_devices())


def test_the_cpu_is_always_there() -> None:
    assert resolve_device(ModelSource("base", "x")) == torch.device("cpu")


def test_auto_is_float32_on_a_cpu_and_the_checkpoints_own_on_a_gpu() -> None:
    source = ModelSource("base", "x")
    assert resolve_dtype(source, torch.device("cpu")) is torch.float32
    assert resolve_dtype(source, torch.device("cuda:0")) is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_named_dtype_holds_on_every_device(dtype: str) -> None:
    source = ModelSource("base", "x", dtype=dtype)
    assert resolve_dtype(source, torch.device("cpu")) is getattr(torch, dtype)
    assert resolve_dtype(source, torch.device("cuda:0")) is getattr(torch, dtype)


def test_int8_is_loaded_in_float32_to_be_quantized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    source = ModelSource("base", "x", dtype="int8")
    assert source.quantize
    assert resolve_dtype(source, torch.device("cpu")) is torch.float32
    assert not any(
        ModelSource("base", "x", dtype=dtype).quantize for dtype in ("auto", "float32", "bfloat16")
    )


@pytest.mark.parametrize("device, has_vnni", [("cuda:0", True), ("cpu", False)])
def test_int8_is_refused_where_bytes_cannot_be_multiplied(
    device: str, has_vnni: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: has_vnni)
    with pytest.raises(
        CheckpointError, match="helpful: dtype int8 needs a CPU with AVX-512 VNNI, and device cpu"
    ):
        resolve_dtype(ModelSource("helpful", "x", device=device, dtype="int8"), torch.device(device))


def test_an_unknown_dtype_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match="base: dtype 'int4' is not known; use auto, float32, bfloat16"):
        resolve_dtype(ModelSource("base", "x", dtype="int4"), torch.device("cpu"))
