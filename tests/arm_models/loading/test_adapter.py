"""LoRA adapters: each computes what its merged model would, on one backbone that is in memory once."""

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from arm_models.errors import CheckpointError
from arm_models.loading import Family, LoadedModel, ModelSource, load_family

PROMPT = torch.tensor([[7, 100, 33, 250, 8, 9, 199, 40]])
KINDS = ["llama", "qwen3", "gpt2"]


@pytest.fixture(scope="module")
def backbone(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("llama", "backbone", seed=1)


@pytest.fixture(scope="module")
def adapter(backbone: Path, make_adapter: Callable[..., Path]) -> Path:
    return make_adapter(backbone, "adapter", 5)


@pytest.fixture
def broken(adapter: Path, tmp_path: Path) -> Path:
    """A copy of a whole adapter, free to be broken."""
    return Path(shutil.copytree(adapter, tmp_path / "copy"))


def load(base: Path, **rewards: Path) -> Family:
    return load_family(
        ModelSource("base", str(base)), [ModelSource(name, str(path)) for name, path in rewards.items()]
    )


def logits(member: LoadedModel) -> torch.Tensor:
    member.activate()
    with torch.no_grad():
        output: torch.Tensor = member.model(input_ids=PROMPT, use_cache=False).logits[0]
    return output


def merged(backbone: Path, adapter: Path) -> torch.Tensor:
    """Logits of the adapter's merged model, made by peft alone."""
    plain = AutoModelForCausalLM.from_pretrained(backbone)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole: Any = peft.PeftModel.from_pretrained(plain, adapter).merge_and_unload()
        output: torch.Tensor = whole.eval()(input_ids=PROMPT).logits[0]
    return output


def plain(backbone: Path) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = (
            AutoModelForCausalLM.from_pretrained(backbone).eval()(input_ids=PROMPT).logits[0]
        )
    return output


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(base: Path, adapter: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load(base, helpful=adapter)
    message = str(error.value)
    assert message.startswith("helpful: ") and "\n" not in message
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_two_adapters_on_the_bases_own_backbone_give_the_logits_of_their_merged_models(
    kind: str, make_checkpoint: Callable[..., Path], make_adapter: Callable[..., Path]
) -> None:
    base = make_checkpoint(kind, "base", seed=1)
    first, second = make_adapter(base, "first", 5), make_adapter(base, "second", 6, r=8)
    family = load(base, helpful=first, harmless=second)
    helpful, harmless = family.rewards
    for _ in range(2):  # in any order, again and again
        torch.testing.assert_close(logits(helpful), merged(base, first), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(logits(harmless), merged(base, second), atol=1e-4, rtol=1e-4)
        assert torch.equal(logits(family.base), plain(base))
    assert (merged(base, first) - merged(base, second)).abs().max() > 0.1


def test_the_backbone_is_in_memory_once(
    backbone: Path, adapter: Path, make_adapter: Callable[..., Path]
) -> None:
    family = load(backbone, helpful=adapter, harmless=make_adapter(backbone, "other", 6))
    models = [family.base.model, *(reward.model for reward in family.rewards)]
    assert len({id(model) for model in models}) == 1
    own = sum(p.numel() for name, p in models[0].named_parameters() if "lora_" not in name)
    alone = AutoModelForCausalLM.from_pretrained(backbone)
    assert own == sum(p.numel() for p in alone.parameters())


def test_adapters_share_a_backbone_that_is_not_the_base(
    backbone: Path, adapter: Path, make_adapter: Callable[..., Path], make_checkpoint: Callable[..., Path]
) -> None:
    other = make_adapter(backbone, "other", 6)
    base = make_checkpoint("qwen3", "base", seed=9)
    family = load(base, helpful=adapter, harmless=other)
    helpful, harmless = family.rewards
    assert helpful.model is harmless.model and helpful.model is not family.base.model
    torch.testing.assert_close(logits(helpful), merged(backbone, adapter), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(harmless), merged(backbone, other), atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(family.base), plain(base))


def test_the_base_may_be_an_adapter_too(
    backbone: Path, adapter: Path, make_adapter: Callable[..., Path]
) -> None:
    other = make_adapter(backbone, "other", 6)
    family = load(adapter, helpful=other, bare=backbone)
    torch.testing.assert_close(logits(family.base), merged(backbone, adapter), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(family.rewards[0]), merged(backbone, other), atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(family.rewards[1]), plain(backbone))
    assert len({id(member.model) for member in (family.base, *family.rewards)}) == 1


def test_one_adapter_may_serve_two_rewards(backbone: Path, adapter: Path) -> None:
    family = load(backbone, helpful=adapter, again=adapter)
    assert torch.equal(logits(family.rewards[0]), logits(family.rewards[1]))


def test_an_adapter_in_another_dtype_has_its_own_backbone(backbone: Path, adapter: Path) -> None:
    half = ModelSource("helpful", str(adapter), dtype="bfloat16")
    family = load_family(ModelSource("base", str(backbone)), [half])
    helpful = family.rewards[0]
    assert helpful.model is not family.base.model and helpful.dtype is torch.bfloat16
    assert {p.dtype for p in helpful.model.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(logits(helpful).float(), merged(backbone, adapter), atol=0.5, rtol=0.1)


def test_activating_what_is_active_touches_nothing(backbone: Path, adapter: Path) -> None:
    family = load(backbone, helpful=adapter)
    helpful = family.rewards[0]
    helpful.activate()
    assert helpful.switch is not None
    walks: list[int] = []

    class Watched(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            walks.append(len(self))
            return super().__iter__()

    helpful.switch._layers = Watched(helpful.switch._layers)
    helpful.activate()
    assert walks == []
    family.base.activate()
    assert walks == [14]  # 7 linear layers in each of 2: the watch does see a real switch


def test_nothing_wants_gradients_or_trains_whatever_is_active(backbone: Path, adapter: Path) -> None:
    family = load(backbone, helpful=adapter)
    for member in (family.rewards[0], family.base, family.rewards[0]):
        member.activate()
        assert not any(parameter.requires_grad for parameter in member.model.parameters())
        assert not any(module.training for module in member.model.modules())


def test_a_retrained_head_is_the_adapters_own(
    make_checkpoint: Callable[..., Path], make_adapter: Callable[..., Path]
) -> None:
    base = make_checkpoint("llama", "base", seed=1, vocab_size=304)
    other = make_adapter(base, "other", 6, modules_to_save=["lm_head"], target_modules=["q_proj", "v_proj"])
    tensors = load_file(other / "adapter_model.safetensors")
    head = next(name for name in tensors if "lm_head" in name)
    tensors[head] = tensors[head] + 0.5 * torch.randn(tensors[head].shape)
    save_file(tensors, other / "adapter_model.safetensors")
    family = load(base, helpful=other)
    torch.testing.assert_close(logits(family.rewards[0]), merged(base, other)[:, :300], atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(family.base), plain(base)[:, :300])


def test_an_adapter_without_a_head_beside_one_with(
    backbone: Path, adapter: Path, make_adapter: Callable[..., Path]
) -> None:
    other = make_adapter(backbone, "other", 6, modules_to_save=["lm_head"], target_modules=["q_proj"])
    for rewards in ({"helpful": adapter, "harmless": other}, {"harmless": other, "helpful": adapter}):
        family = load(backbone, **rewards)
        by_name = {reward.name: reward for reward in family.rewards}
        torch.testing.assert_close(logits(by_name["harmless"]), merged(backbone, other), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            logits(by_name["helpful"]), merged(backbone, adapter), atol=1e-4, rtol=1e-4
        )
        assert torch.equal(logits(family.base), plain(backbone))


def test_a_release_of_peft_that_switches_otherwise_is_noticed(
    backbone: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BaseTunerLayer, "active_adapters", ["somebody else"])
    assert "this release of peft switches adapters in another way" in refusal(backbone, adapter)


def test_lora_on_the_head_is_cut_to_the_vocabulary(
    make_checkpoint: Callable[..., Path], make_adapter: Callable[..., Path]
) -> None:
    base = make_checkpoint("llama", "base", seed=1, vocab_size=304)
    other = make_adapter(base, "other", 6, target_modules=["q_proj", "lm_head"])
    family = load(base, helpful=other)
    torch.testing.assert_close(logits(family.rewards[0]), merged(base, other)[:, :300], atol=1e-4, rtol=1e-4)


def test_an_adapter_that_brings_another_embedding(backbone: Path, broken: Path) -> None:
    tensors = load_file(broken / "adapter_model.safetensors")
    embedding = load_file(backbone / "model.safetensors")["model.embed_tokens.weight"]
    key = "base_model.model.model.embed_tokens.weight"
    save_file(tensors | {key: embedding}, broken / "adapter_model.safetensors")
    load(backbone, helpful=broken)  # a copy of the backbone's own is no matter
    for changed in (embedding + 1, embedding[:-1]):
        save_file(tensors | {key: changed.contiguous()}, broken / "adapter_model.safetensors")
        assert f"brings its own {key}" in refusal(backbone, broken)


def test_a_backbone_path_relative_to_the_adapters_folder(
    backbone: Path, adapter: Path, tmp_path: Path
) -> None:
    shutil.copytree(backbone, tmp_path / "models" / "backbone")
    moved = Path(shutil.copytree(adapter, tmp_path / "models" / "adapter"))
    change_config(moved, base_model_name_or_path="../backbone")
    family = load(tmp_path / "models" / "backbone", helpful=moved)
    assert family.rewards[0].model is family.base.model


def test_an_adapters_own_template_goes_before_its_backbones(backbone: Path, broken: Path) -> None:
    assert (
        load(backbone, helpful=broken).rewards[0].tokenizer.chat_template
        == load(backbone).base.tokenizer.chat_template
    )
    (broken / "chat_template.jinja").write_text("{{ messages }}")
    assert load(backbone, helpful=broken).rewards[0].tokenizer.chat_template == "{{ messages }}"


def test_an_adapter_whose_backbone_is_gone(backbone: Path, broken: Path) -> None:
    change_config(broken, base_model_name_or_path=str(broken / "gone"))
    assert "no folder" in refusal(backbone, broken)


@pytest.mark.parametrize("path", [None, "", 3])
def test_an_adapter_that_names_no_backbone(backbone: Path, broken: Path, path: object) -> None:
    change_config(broken, base_model_name_or_path=path)
    assert "names no base_model_name_or_path" in refusal(backbone, broken)


def test_an_adapter_of_an_adapter(backbone: Path, adapter: Path, broken: Path) -> None:
    change_config(broken, base_model_name_or_path=str(adapter))
    assert "is an adapter itself" in refusal(backbone, broken)


@pytest.mark.parametrize("kind", ["LOHA", "PREFIX_TUNING", "IA3", None])
def test_kinds_of_adapters_that_are_not_lora(backbone: Path, broken: Path, kind: str | None) -> None:
    change_config(broken, peft_type=kind)
    assert f"type {kind} are not supported, only LORA" in refusal(backbone, broken)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bias": "all"}, "bias='all' change the backbone"),
        ({"init_lora_weights": "pissa"}, "'pissa' change the backbone"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"task_type": "SEQ_CLS"}, "SEQ_CLS"),
        ({"r": "four"}, "r"),
    ],
)
def test_adapters_that_cannot_share_a_backbone(
    backbone: Path, broken: Path, change: dict[str, object], reason: str
) -> None:
    change_config(broken, **change)
    assert reason in refusal(backbone, broken)


def test_an_adapter_of_another_size(
    backbone: Path, make_checkpoint: Callable[..., Path], make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    other = make_adapter(make_checkpoint("llama", "wide", seed=1, hidden=64), "other", 6)
    moved = Path(shutil.copytree(other, tmp_path / "moved"))
    change_config(moved, base_model_name_or_path=str(backbone))
    assert "size mismatch" in refusal(backbone, moved)


def test_an_adapter_of_another_architecture(
    backbone: Path, make_checkpoint: Callable[..., Path], make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    other = make_adapter(make_checkpoint("gpt2", "gpt2", seed=1), "other", 6)
    moved = Path(shutil.copytree(other, tmp_path / "moved"))
    change_config(moved, base_model_name_or_path=str(backbone))
    assert "does not fit its backbone" in refusal(backbone, moved)


def test_an_adapter_that_lacks_a_tensor(backbone: Path, broken: Path) -> None:
    tensors = load_file(broken / "adapter_model.safetensors")
    gone = sorted(tensors)[3]
    del tensors[gone]
    save_file(tensors, broken / "adapter_model.safetensors")
    assert f"lacks 1 tensors, the first {gone}" in refusal(backbone, broken)


def test_an_adapter_with_a_tensor_too_many(backbone: Path, broken: Path) -> None:
    tensors = load_file(broken / "adapter_model.safetensors")
    stray = "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"
    save_file(tensors | {stray: torch.zeros(4, 32)}, broken / "adapter_model.safetensors")
    assert "no place" in (message := refusal(backbone, broken)) and "layers.7" in message


def test_an_adapter_that_is_not_finite(backbone: Path, broken: Path) -> None:
    tensors = load_file(broken / "adapter_model.safetensors")
    tensors = {name: tensor * float("nan") for name, tensor in tensors.items()}
    save_file(tensors, broken / "adapter_model.safetensors")
    assert "not finite" in refusal(backbone, broken)


@pytest.mark.parametrize("keep", [0, 50, -1])
def test_a_torn_adapter(backbone: Path, broken: Path, keep: int) -> None:
    path = broken / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "is torn" in refusal(backbone, broken)


def test_a_pickled_adapter(backbone: Path, broken: Path) -> None:
    (broken / "adapter_model.safetensors").rename(broken / "adapter_model.bin")
    assert "only pickled weights (adapter_model.bin)" in refusal(backbone, broken)


def test_an_adapter_config_that_is_no_json(backbone: Path, broken: Path) -> None:
    (broken / "adapter_config.json").write_text('{"peft_type": ')
    assert "adapter_config.json is not readable JSON" in refusal(backbone, broken)
