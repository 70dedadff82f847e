"""What is told of a model is what it turns out to be once it is loaded."""

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from arm_models.errors import CheckpointError
from arm_models.loading import Family, ModelSource, load_family
from server.config import EngineSettings
from server.doctor.capacity import Resident, capacity, weights_bytes
from server.doctor.machine import Device
from server.doctor.model import NotHere, read_model
from server.engine import EngineConfig
from server.engine.assembly import kv_shape, kv_tokens

GIB = 1 << 30


@pytest.fixture(scope="module")
def sources(make_checkpoint: Callable[..., Path], make_adapter: Callable[..., Path]) -> list[ModelSource]:
    """A base with two adapters on it, a reward of another shape that is stored in 16 bits, and one like GPT-2."""
    from torch import bfloat16

    base = make_checkpoint("llama", "doctor-base", seed=1)
    return [
        ModelSource("base", str(base)),
        ModelSource("kind", str(make_adapter(base, "doctor-kind", 2))),
        ModelSource("short", str(make_adapter(base, "doctor-short", 3))),
        ModelSource("safe", str(make_checkpoint("qwen3", "doctor-safe", seed=4, hidden=64, dtype=bfloat16))),
        ModelSource("old", str(make_checkpoint("gpt2", "doctor-old", seed=5))),
    ]


@pytest.fixture(scope="module")
def family(sources: Sequence[ModelSource]) -> Family:
    return load_family(sources[0], sources[1:])


@pytest.fixture(scope="module")
def residents(sources: Sequence[ModelSource]) -> list[Resident]:
    return [Resident(source.name, read_model(source), "cpu", "float32") for source in sources]


def test_parameters_and_weights_are_those_that_are_loaded(
    residents: Sequence[Resident], family: Family
) -> None:
    backbones = {id(model.model): model.model for model in (family.base, *family.rewards)}
    parameters = [one for backbone in backbones.values() for one in backbone.parameters()]
    assert weights_bytes(residents) == sum(one.numel() * one.element_size() for one in parameters)
    facts = residents[3].facts
    safe = family.rewards[2].model
    assert facts.values.all == sum(one.numel() for one in safe.parameters())
    assert (facts.stored, facts.architecture) == ("bfloat16", "qwen3")
    assert facts.values.held_as("bfloat16") == facts.values.held_as("float32") // 2


def test_a_token_s_cache_and_the_caches_are_the_engine_s(
    residents: Sequence[Resident], family: Family
) -> None:
    models = [family.base, *family.rewards]
    for one, model in zip(residents, models, strict=True):
        assert one.kv_bytes == kv_shape(model).bytes_per_token
        assert one.facts.max_length == model.max_length
    cpu = Device("cpu", "", 8 * GIB, 4 * GIB)
    for changes in (
        {},
        {"cpu_cache_bytes": 1 << 20},
        {"max_sequences": 3},
        {"kv_tokens": 640},
        {"cpu_cache_bytes": 9},
    ):
        told = capacity(cpu, residents, EngineSettings(**changes))
        sizes = [kv_tokens(models, model, EngineConfig(**changes)) for model in models]
        assert told.cache_tokens == min(sizes)
        assert told.cache == sum(
            size * kv_shape(model).bytes_per_token for size, model in zip(sizes, models, strict=True)
        )
        assert set(told.fits) == {256}
        assert told.fits[256] == min(sizes) // 256


def test_what_a_full_member_has_no_other_full_member_shares(sources: Sequence[ModelSource]) -> None:
    facts, adapter = read_model(sources[0]), read_model(sources[1])
    one = facts.values.held_as("float32")
    base, twin = Resident("base", facts, "cpu", "float32"), Resident("twin", facts, "cpu", "float32")
    kind = Resident("kind", adapter, "cpu", "float32")
    added = adapter.values.held_as("float32")
    assert weights_bytes([base, twin]) == 2 * one
    assert weights_bytes([kind, base]) == one + added
    assert weights_bytes([kind, base, twin]) == 2 * one + added
    assert weights_bytes([base, Resident("base.negative", facts, "cpu", "float32", again=True)]) == one
    assert weights_bytes([base, Resident("kind", adapter, "cpu", "bfloat16")]) == one + (one + added) // 2


def test_int8_is_a_byte_for_each_number_of_a_matrix_and_a_scale_for_each_row() -> None:
    from server.doctor.model import Values

    values = Values(all=100 * 50 + 300, in_matrices=100 * 50, rows=100, rest=300)
    assert values.held_as("int8") == 100 * 50 + 4 * 100 + 4 * 300


def test_on_a_gpu_the_caches_get_their_share_of_what_weights_leave(residents: Sequence[Resident]) -> None:
    from dataclasses import replace

    held = [replace(one, device="cuda:0", dtype="bfloat16") for one in residents]
    weights = weights_bytes(held)
    gpu = Device("cuda:0", "", GIB, weights + (1 << 20))
    told = capacity(gpu, held, EngineSettings(gpu_memory_fraction=0.5, max_sequences=512))
    each = sum(one.kv_bytes for one in held)
    assert [one.kv_bytes for one in held] == [one.kv_bytes // 2 for one in residents]
    assert told.cache_tokens == (1 << 19) // each
    assert 0 <= told.cache <= 1 << 19
    full = capacity(replace(gpu, free=weights), held, EngineSettings())
    assert (full.cache_tokens, full.fits[256]) == (0, 0)


def test_a_model_far_larger_than_memory_is_looked_at_without_being_read(
    tmp_path: Path, make_checkpoint: Callable[..., Path]
) -> None:
    small = make_checkpoint("llama", "doctor-small", seed=6)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((small / name).read_bytes())
    size = 1 << 17
    header = {"lm_head.weight": {"dtype": "F32", "shape": [size, size], "data_offsets": [0, 4 * size**2]}}
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + 4 * size**2)  # 64 GiB, none of them on disk
    assert read_model(ModelSource("huge", str(tmp_path))).values.held_as("float32") == 4 * size**2


def test_what_cannot_be_served_is_refused_as_when_it_is_loaded(
    tmp_path: Path, make_checkpoint: Callable[..., Path]
) -> None:
    with pytest.raises(CheckpointError, match="no folder"):
        read_model(ModelSource("gone", str(tmp_path / "gone")))
    with pytest.raises(NotHere, match="would be fetched"):
        read_model(ModelSource("far", "nobody/has-this-model"))
    windowed = make_checkpoint("mistral", "doctor-window", seed=7)
    config = json.loads((windowed / "config.json").read_text())
    config["is_encoder_decoder"] = True
    (windowed / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="encoder-decoder"):
        read_model(ModelSource("both", str(windowed)))
    with pytest.raises(CheckpointError, match="sequence classifier"):
        read_model(ModelSource("score", str(make_checkpoint("llama", "doctor-score", seed=8)), kind="scalar"))
