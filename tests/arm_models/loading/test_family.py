"""A family is loaded whole or not at all: frozen, switched to the engine's attention, each copy its own config."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from arm_models.errors import CheckpointError
from arm_models.loading import Family, ModelSource, fingerprint, load_family

needs_vnni = pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="this CPU has no fast int8")

KINDS = ["llama", "qwen2", "qwen3", "mistral", "gpt2"]


@pytest.fixture(scope="module")
def base(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("llama", "base", seed=1)


@pytest.fixture(scope="module")
def arm(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("qwen3", "arm", seed=2, hidden=16, layers=3)


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """A copy of a whole checkpoint, free to be broken."""
    return Path(shutil.copytree(base, tmp_path / "copy"))


def load(*paths: Path, **options: Any) -> Family:
    names = ["base", "helpful", "harmless"]
    first, *rest = [ModelSource(name, str(path)) for name, path in zip(names, paths, strict=False)]
    return load_family(first, rest, **options)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load(folder)
    message = str(error.value)
    assert message.startswith(f"base: {folder}") and "\n" not in message
    return message


def change(folder: Path, file: str, **changes: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, None]:
    groups = q.shape[1] // k.shape[1]
    keys, values = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    out = torch.nn.functional.scaled_dot_product_attention(q, keys, values, is_causal=True)
    return out.transpose(1, 2).contiguous(), None


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_loaded_as_transformers_would(kind: str, make_checkpoint: Callable[..., Path]) -> None:
    path = make_checkpoint(kind, kind, seed=3)
    member = load(path).base
    prompt = torch.tensor([[9, 80, 12, 44]])
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(path).eval()(input_ids=prompt).logits
        assert torch.equal(member.model(input_ids=prompt).logits, expected)
    assert (member.name, member.adapter, member.vocab_size, member.max_length) == ("base", None, 300, 256)
    assert (member.num_layers, member.num_heads, member.head_dim) == (2, 4, 8)
    assert member.num_kv_heads == (4 if kind == "gpt2" else 2)
    assert (member.device, member.dtype) == (torch.device("cpu"), torch.float32)


def test_members_are_frozen_and_in_the_order_given(base: Path, arm: Path) -> None:
    family = load(base, arm, base)
    assert [member.name for member in family.rewards] == ["helpful", "harmless"]
    for member in (family.base, *family.rewards):
        assert not member.model.training
        assert not any(parameter.requires_grad for parameter in member.model.parameters())


def test_every_copy_has_a_config_of_its_own(base: Path) -> None:
    family = load(base, base, base)
    members = (family.base, *family.rewards)
    assert len({id(member.model.config) for member in members}) == 3
    family.base.model.set_attn_implementation("eager")
    assert {member.model.config._attn_implementation for member in family.rewards} == {"sdpa"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_runs_the_attention_it_was_switched_to(
    kind: str, make_checkpoint: Callable[..., Path]
) -> None:
    calls: list[int] = []

    def counting(module: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        calls.append(module.layer_idx)
        return plain_attention(q, k, v)

    AttentionInterface.register("counting_test_attention", counting)
    path = make_checkpoint(kind, kind, seed=3)
    member = load(path, attention="counting_test_attention").base
    assert member.model.config._attn_implementation == "counting_test_attention"
    calls.clear()
    prompt = torch.tensor([[9, 80, 12, 44]])
    logits = member.model(input_ids=prompt, use_cache=False).logits
    assert calls == [0, 1]
    torch.testing.assert_close(logits, load(path).base.model(input_ids=prompt).logits, atol=1e-4, rtol=1e-4)


def test_an_attention_nobody_registered_is_the_callers_mistake(base: Path) -> None:
    with pytest.raises(ValueError, match="'no_such' is not registered"):
        load(base, attention="no_such")


def test_a_switch_that_fails_is_not_passed_over(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.PreTrainedModel.set_attn_implementation", lambda *_: None)
    with pytest.raises(CheckpointError, match="ignores the attention switch"):
        load(base)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_dtype_is_honoured(dtype: str, base: Path) -> None:
    member = load_family(ModelSource("base", str(base), dtype=dtype), []).base
    assert member.dtype is getattr(torch, dtype)
    assert {parameter.dtype for parameter in member.model.parameters()} == {member.dtype}


@needs_vnni
def test_int8_is_float32_with_a_note_to_quantize_and_shares_nothing_with_float32(
    base: Path, make_adapter: Callable[..., Path]
) -> None:
    adapter = str(make_adapter(base, "rounded", 5))
    family = load_family(
        ModelSource("base", str(base)),
        [ModelSource("plain", adapter), ModelSource("rounded", adapter, dtype="int8")],
    )
    plain, rounded = family.rewards
    assert (family.base.quantize, plain.quantize, rounded.quantize) == (False, False, True)
    assert rounded.dtype is torch.float32
    assert plain.model is family.base.model and rounded.model is not family.base.model


def test_auto_on_a_cpu_is_float32_whatever_is_stored(make_checkpoint: Callable[..., Path]) -> None:
    assert load(make_checkpoint("llama", "half", seed=1, dtype=torch.bfloat16)).base.dtype is torch.float32


def test_tied_weights_stay_tied(make_checkpoint: Callable[..., Path]) -> None:
    model: Any = load(make_checkpoint("llama", "tied", seed=1, tie_word_embeddings=True)).base.model
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_the_end_is_what_generation_config_and_tokenizer_say(folder: Path) -> None:
    assert load(folder).eos_ids == {0}
    change(folder, "generation_config.json", eos_token_id=[2, 7, 100000])
    assert load(folder).eos_ids == {0, 2, 7}  # the tokenizer's own 0 ends a turn as well; 100000 is no token
    change(folder, "generation_config.json", eos_token_id=5)
    assert load(folder).eos_ids == {0, 5}


def test_the_end_is_the_bases(folder: Path, arm: Path) -> None:
    change(folder, "generation_config.json", eos_token_id=9)
    assert load(arm, folder).eos_ids == {0}


def test_progress_names_every_model_and_transformers_is_silent(
    base: Path, arm: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    capfd.readouterr()
    load(base, arm, progress=lines.append)
    assert [line.split(":")[0] for line in lines] == ["loading base", "loading helpful"]
    assert capfd.readouterr() == ("", "")
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == before


def test_two_models_of_one_name(base: Path) -> None:
    with pytest.raises(CheckpointError, match="helpful: two models have this name"):
        load_family(ModelSource("base", str(base)), [ModelSource("helpful", str(base))] * 2)


def test_a_missing_tensor_is_never_made_up(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    gone = "model.layers.1.mlp.up_proj.weight"
    del tensors[gone]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert f"1 tensors are missing, the first {gone}" in refusal(folder)


def test_a_tensor_without_a_place(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(
        tensors | {"v_head.weight": torch.ones(1)}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    assert "1 tensors have no place, the first v_head.weight" in refusal(folder)


def test_a_tensor_of_another_size(folder: Path) -> None:
    change(folder, "config.json", intermediate_size=48)
    assert "cannot be loaded" in refusal(folder) or "do not fit" in refusal(folder)


def test_an_unsupported_architecture_is_refused_before_its_weights_are_read(
    make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    windowed = make_checkpoint("mistral", "windowed", seed=1, sliding_window=32)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("read"))
    assert "sliding_window" in refusal(windowed)


def test_an_unknown_architecture(folder: Path) -> None:
    change(folder, "config.json", model_type="frobnicator")
    assert "does not know the model type 'frobnicator'" in refusal(folder)


def test_code_in_a_models_folder_is_never_run(folder: Path, tmp_path: Path) -> None:
    (folder / "modeling_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    change(folder, "config.json", model_type="own", auto_map={"AutoConfig": "modeling_own.OwnConfig"})
    assert "is never run" in refusal(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "changes", [{"hidden_size": "wide"}, {"num_attention_heads": 0}, {"num_hidden_layers": -1}]
)
def test_a_config_that_makes_no_sense(folder: Path, changes: dict[str, object]) -> None:
    change(folder, "config.json", **changes)
    assert refusal(folder)


def test_weights_that_are_not_finite(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = float("inf")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "not finite" in refusal(folder)


def test_the_fingerprint_follows_what_is_served(base: Path, arm: Path, folder: Path) -> None:
    family = load(base, arm)
    first = fingerprint(family)
    assert first.startswith("fp_") and len(first) == 15
    assert fingerprint(load(folder, arm)) == first  # the same files in another place
    assert fingerprint(load(base, base)) != first
    half = ModelSource("helpful", str(arm), dtype="bfloat16")
    assert fingerprint(load_family(ModelSource("base", str(base)), [half])) != first
    assert fingerprint(replace(family, base=replace(family.base, quantize=True))) != first
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] += 0.01
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(load(folder, arm)) != first


def test_the_fingerprint_follows_the_template(base: Path, tmp_path: Path) -> None:
    template = tmp_path / "other.jinja"
    template.write_text("{{ messages }}")
    other = load_family(ModelSource("base", str(base), chat_template=str(template)), [])
    assert fingerprint(other) != fingerprint(load(base))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_auto_is_the_stored_dtype_and_the_backbone_is_shared(
    make_checkpoint: Callable[..., Path], make_adapter: Callable[..., Path]
) -> None:
    half = make_checkpoint("llama", "half", seed=1, dtype=torch.bfloat16)
    adapter = make_adapter(half, "adapter", 5)
    sources = [ModelSource("helpful", str(adapter), device="cuda"), ModelSource("cpu", str(half))]
    family = load_family(ModelSource("base", str(half), device="cuda:0"), sources)
    assert (family.base.dtype, family.base.device) == (torch.bfloat16, torch.device("cuda:0"))
    assert family.rewards[0].model is family.base.model
    assert {parameter.device.type for parameter in family.base.model.parameters()} == {"cuda"}
    assert family.rewards[1].dtype is torch.float32 and family.rewards[1].device.type == "cpu"


def test_a_family_without_adapters_does_not_wait_for_peft(base: Path, arm: Path) -> None:
    """Importing peft takes longer than importing torch; `genarm serve` on the demo has no use for it."""
    program = (
        "import sys; from arm_models.loading import ModelSource, load_family;"
        f"load_family(ModelSource('base', {str(base)!r}), [ModelSource('helpful', {str(arm)!r})]);"
        "sys.exit('peft' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_devices_and_dtypes_are_checked_before_anything_is_read(base: Path) -> None:
    lines: list[str] = []
    for wrong in (
        ModelSource("helpful", "x/y", device="cuda:97"),
        ModelSource("helpful", "x/y", dtype="int3"),
    ):
        with pytest.raises(CheckpointError, match="helpful: d"):
            load_family(ModelSource("base", str(base)), [wrong], progress=lines.append)
    assert lines == []


def test_a_rewards_name_may_hold_dots(base: Path, make_adapter: Callable[..., Path]) -> None:
    adapter = make_adapter(base, "adapter", 5)
    family = load_family(ModelSource("base", str(base)), [ModelSource("helpful.v1.2", str(adapter))])
    assert family.rewards[0].name == "helpful.v1.2"
