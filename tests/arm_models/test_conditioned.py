"""Conditioned adapters: what they compute for a p is the model with ΔW(p) in its weights."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from arm_models.conditioned import (
    ConditionedConfig,
    ConditionedLinear,
    add_conditioned,
    conditioned_layers,
    load_conditioned,
    merged,
    save_conditioned,
    set_condition,
)
from arm_models.errors import CheckpointError, UserError
from arm_models.loading.checkpoint import open_checkpoint

CONFIG = ConditionedConfig(("helpful", "harmless"), r1=3, r2=2)
TOKENS = torch.tensor([[7, 100, 33, 250, 8], [9, 199, 40, 8, 3], [5, 6, 7, 8, 9]])


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def backbone(request: pytest.FixtureRequest, make_checkpoint: Callable[..., Path]) -> Any:
    folder = make_checkpoint(request.param, "backbone", seed=1)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture
def adapted(backbone: Any) -> Any:
    """A model whose adapter is far from its start."""
    return shaken(add_conditioned(copy.deepcopy(backbone), CONFIG))


def shaken(model: Any) -> Any:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, layer in conditioned_layers(model):
            for parameter in layer.parameters(recurse=False):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@torch.no_grad()
def logits(model: Any, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    output: torch.Tensor = model(input_ids=tokens).logits
    return output


def test_a_fresh_adapter_changes_nothing_whatever_the_preferences(backbone: Any) -> None:
    model = add_conditioned(copy.deepcopy(backbone), CONFIG)
    set_condition(model, torch.tensor([0.3, 0.7]))
    assert torch.equal(logits(model), logits(backbone))


def test_every_text_of_a_batch_has_its_own_preferences(adapted: Any) -> None:
    rows = torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.0, 1.0]])
    set_condition(adapted, rows)
    together = logits(adapted)
    for number, p in enumerate(rows):
        alone = logits(merged(adapted, p), TOKENS[number : number + 1])
        torch.testing.assert_close(together[number : number + 1], alone, atol=1e-5, rtol=1e-5)
        set_condition(adapted, p)
        torch.testing.assert_close(logits(adapted, TOKENS[number : number + 1]), alone, atol=1e-5, rtol=1e-5)
    assert (together[0] - logits(merged(adapted, rows[2]))[0]).abs().max() > 0.1


def test_every_token_may_have_its_own_preferences(adapted: Any) -> None:
    rows = torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.0, 1.0]])
    layer = next(conditioned_layers(adapted))[1]
    x = torch.randn(3, 4, layer.in_features, generator=torch.Generator().manual_seed(1))
    layer.condition = rows
    expected = layer(x)
    layer.condition = rows.repeat_interleave(4, 0)[None]
    assert torch.allclose(layer(x.flatten(0, 1)[None])[0], expected.flatten(0, 1), atol=1e-6)


def test_the_addition_is_the_papers_formula(adapted: Any) -> None:
    layer = next(conditioned_layers(adapted))[1]
    core = 0.2 * layer.W2[0] + 0.8 * layer.W2[1]
    expected = 2.0 * (layer.B1 @ layer.W1 @ layer.A1 + layer.B2 @ core @ layer.A2)
    torch.testing.assert_close(layer.delta(torch.tensor([0.2, 0.8])), expected)


def test_without_a_condition_the_backbone_is_alone(adapted: Any, backbone: Any) -> None:
    set_condition(adapted, torch.tensor([1.0, 0.0]))
    set_condition(adapted, None)
    assert torch.equal(logits(adapted), logits(backbone))


def test_training_reaches_every_part_of_the_adapter_and_nothing_else(adapted: Any) -> None:
    set_condition(adapted, torch.tensor([0.4, 0.6]))
    adapted(input_ids=TOKENS).logits.square().mean().backward()
    for name, parameter in adapted.named_parameters():
        own = name.rpartition(".")[2] in ("A1", "W1", "B1", "A2", "W2", "B2")
        assert parameter.requires_grad == own, name
        if own:
            assert parameter.grad is not None and bool((parameter.grad != 0).flatten(1).any(1).all()), name


def test_what_is_saved_is_what_is_loaded(adapted: Any, backbone: Any, tmp_path: Path) -> None:
    save_conditioned(adapted, tmp_path, CONFIG)
    again = load_conditioned(copy.deepcopy(backbone), open_checkpoint("parm", str(tmp_path)))
    for model in (adapted, again):
        set_condition(model, torch.tensor([0.5, 0.5]))
    assert torch.equal(logits(again), logits(adapted))


def test_named_layers_alone_are_adapted(make_checkpoint: Callable[..., Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_checkpoint("llama", "named", seed=1))
    config = ConditionedConfig(("a", "b"), target_modules=("q_proj", "down_proj"))
    paths = [path for path, _ in conditioned_layers(add_conditioned(model, config))]
    assert sorted({path.rpartition(".")[2] for path in paths}) == ["down_proj", "q_proj"]
    assert len(paths) == 4
    assert not isinstance(model.lm_head, ConditionedLinear)


def test_a_layer_that_is_not_there_is_named(backbone: Any) -> None:
    with pytest.raises(UserError, match="no linear layer 'up'"):
        add_conditioned(copy.deepcopy(backbone), ConditionedConfig(("a",), target_modules=("up",)))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"objectives": ()}, "objectives"),
        ({"objectives": ("a", "a")}, "objectives"),
        ({"r1": 0}, "r1"),
        ({"r2": 0}, "r2"),
        ({"scale": 0.0}, "scale"),
        ({"target_modules": ()}, "target_modules"),
    ],
)
def test_settings_out_of_range_are_named(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=f"^{reason} must"):
        ConditionedConfig(**{"objectives": ("a", "b")} | fields)


def test_preferences_of_another_length_are_refused(adapted: Any) -> None:
    with pytest.raises(ValueError, match="2 objectives"):
        set_condition(adapted, torch.tensor([1.0, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"objectives": "helpful"}, "objectives must be a list of names"),
        ({"r2": "two"}, "r2 must be a whole number"),
        ({"r1": 4}, "A1 is"),
        ({"scale": None}, "scale must be a number"),
        ({"target_modules": ["nothing"]}, "no linear layer 'nothing'"),
        ({"peft_type": "LORA"}, "peft_type must be PBLORA"),
    ],
)
def test_a_broken_folder_is_refused_in_one_line(
    adapted: Any, backbone: Any, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    save_conditioned(adapted, tmp_path, CONFIG)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=reason) as error:
        load_conditioned(copy.deepcopy(backbone), open_checkpoint("parm", str(tmp_path)))
    assert str(error.value).startswith("parm: ") and "\n" not in str(error.value)


def test_a_missing_tensor_is_named(adapted: Any, backbone: Any, tmp_path: Path) -> None:
    save_conditioned(adapted, tmp_path, CONFIG)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    lost = sorted(tensors)[3]
    del tensors[lost]
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=f"lacks {lost}"):
        load_conditioned(copy.deepcopy(backbone), open_checkpoint("parm", str(tmp_path)))
