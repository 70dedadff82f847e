"""A soup is the average of weights, of updates or of factors, as it is named; what has no average is refused."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from arm_models.errors import UserError
from arm_models.loading import ModelSource, load_family
from arm_models.loading.checkpoint import open_checkpoint
from arm_models.soup import make_soup, read_parts
from arm_models.soup.average import average
from server.cli import main

Make = Callable[..., Path]
WEIGHTS = (0.25, 0.75)


@pytest.fixture(scope="module")
def models(make_checkpoint: Make) -> list[Path]:
    return [make_checkpoint("llama", f"part-{seed}", seed=seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def adapters(models: list[Path], make_adapter: Make) -> list[Path]:
    """Of unlike rank and scale."""
    changes: tuple[dict[str, int], ...] = ({"r": 4, "lora_alpha": 8}, {"r": 2, "lora_alpha": 6})
    return [make_adapter(models[0], f"adapter-{seed}", seed=seed, **changes[seed]) for seed in (0, 1)]


def soup(folders: list[Path], output: Path, *flags: str) -> int:
    parts = [f"--model={folder}={weight}" for folder, weight in zip(folders, WEIGHTS, strict=True)]
    return main(["soup", *parts, "--output", str(output), *flags])


def tensors(folder: Path) -> dict[str, Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def merged(backbone: Path, adapter: Path) -> dict[str, Tensor]:
    """The backbone's weights with the adapter's update in them, by peft."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers for a property by its old name
        whole: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(backbone), adapter)
    state: dict[str, Tensor] = whole.merge_and_unload().state_dict()
    return state


def test_full_models_are_averaged_weight_by_weight(models: list[Path], tmp_path: Path) -> None:
    assert soup(models, tmp_path / "soup", "--base", str(models[0])) == 0
    one, two, whole = (tensors(folder) for folder in (*models, tmp_path / "soup"))
    assert whole.keys() == one.keys()
    for name, tensor in whole.items():
        assert torch.allclose(tensor, 0.25 * one[name] + 0.75 * two[name], atol=1e-7)
    AutoModelForCausalLM.from_pretrained(tmp_path / "soup")
    card = json.loads((tmp_path / "soup/arm.json").read_text())
    assert [part["weight"] for part in card["soup"]["parts"]] == [0.25, 0.75]


def test_sharded_models_are_averaged_too(models: list[Path], tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(models[0]).save_pretrained(sharded, max_shard_size="30KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    make_soup(read_parts([f"{sharded}=0.25", f"{models[1]}=0.75"]), tmp_path / "one", "delta")
    make_soup(read_parts([f"{models[0]}=0.25", f"{models[1]}=0.75"]), tmp_path / "two", "delta")
    one, two = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_delta_is_the_average_of_the_merged_weights_and_serves(
    models: list[Path], adapters: list[Path], tmp_path: Path
) -> None:
    assert soup(adapters, tmp_path / "soup", "--base", str(models[0])) == 0
    one, two, whole = (merged(models[0], folder) for folder in (*adapters, tmp_path / "soup"))
    for name, tensor in whole.items():
        assert torch.allclose(tensor, 0.25 * one[name] + 0.75 * two[name], atol=1e-5)
    config = json.loads((tmp_path / "soup/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (6, 6)
    family = load_family(ModelSource("base", str(models[0])), [ModelSource("soup", str(tmp_path / "soup"))])
    assert [reward.name for reward in family.rewards] == ["soup"]


def test_factors_are_averaged_only_by_that_name(
    models: list[Path], adapters: list[Path], make_adapter: Make, tmp_path: Path
) -> None:
    alike = [adapters[0], make_adapter(models[0], "like", seed=7, r=4, lora_alpha=8)]
    assert soup(alike, tmp_path / "soup", "--method", "factors") == 0
    one, two, whole = (tensors(folder) for folder in (*alike, tmp_path / "soup"))
    for name, tensor in whole.items():
        assert torch.allclose(tensor, 0.25 * one[name] + 0.75 * two[name], atol=1e-7)
    assert "which is not the average of their updates" in (tmp_path / "soup/README.md").read_text()
    with pytest.raises(UserError, match="of another rank or scale cannot be averaged"):
        make_soup(read_parts([f"{adapters[0]}=0.5", f"{adapters[1]}=0.5"]), tmp_path / "other", "factors")
    assert not (tmp_path / "other").exists()


def test_low_precision_is_averaged_in_float32() -> None:
    parts = [torch.tensor([1.0, -3.0], dtype=torch.bfloat16)] * 100
    assert average(parts, [0.01] * 100).tolist() == [1.0, -3.0]
    with pytest.raises(ValueError, match="integers differ"):
        average([torch.tensor([1]), torch.tensor([2])], [0.5, 0.5])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (("0.5", "0.4"), "weights sum to 1, got 2 that sum to 0.9"),
        (("1.5", "-0.5"), "must be FOLDER=WEIGHT, the weight from 0 to 1"),
        (("half", "0.5"), "must be FOLDER=WEIGHT"),
        (("1",), "two or more"),
    ],
)
def test_weights_that_are_no_average_are_refused(
    weights: tuple[str, ...], message: str, models: list[Path]
) -> None:
    with pytest.raises(UserError, match=message):
        read_parts([f"{folder}={weight}" for folder, weight in zip(models, weights, strict=False)])


def test_models_that_do_not_belong_together_are_refused(
    models: list[Path],
    adapters: list[Path],
    make_checkpoint: Make,
    make_adapter: Make,
    make_tokenizer: Callable[..., Any],
    tmp_path: Path,
) -> None:
    wider = make_checkpoint("llama", "wider", seed=3, hidden=64)
    foreign = make_checkpoint("llama", "foreign", seed=3, vocab_size=300, tokenizer=make_tokenizer(size=290))
    elsewhere = make_adapter(models[1], "elsewhere", seed=1)
    fewer = make_adapter(models[0], "fewer", seed=1, target_modules=["q_proj"])
    rank = make_adapter(models[0], "rank", seed=1, rank_pattern={"q_proj": 2})
    out = tmp_path / "soup"
    for one, other, message in (
        (models[0], wider, "its head_dim is 16, that of .* 8"),
        (models[0], foreign, "its tokenizer is not that of"),
        (models[0], adapters[0], "adapters and full models cannot be averaged"),
        (adapters[0], elsewhere, "its base_model_name_or_path is"),
        (adapters[0], fewer, "only one of the models has"),
        (adapters[0], rank, "adapters with rank_pattern cannot be averaged"),
    ):
        with pytest.raises(UserError, match=message):
            make_soup(read_parts([f"{one}=0.5", f"{other}=0.5"]), out, "delta")
    with pytest.raises(UserError, match=r"--base: .*wider.* is \[300, 64\]"):
        make_soup(
            read_parts([f"{models[0]}=0.5", f"{models[1]}=0.5"]),
            out,
            "delta",
            open_checkpoint("--base", str(wider)),
        )
    with pytest.raises(UserError, match=r"--base: .*wider.*no layer that the adapters' "):
        make_soup(
            read_parts([f"{adapters[0]}=0.5", f"{adapters[1]}=0.5"]),
            out,
            "delta",
            open_checkpoint("--base", str(wider)),
        )
    both = read_parts([f"{models[0]}=0.5", f"{models[1]}=0.5"])
    with pytest.raises(UserError, match="of full models there is one average"):
        make_soup(both, out, "factors")
    with pytest.raises(UserError, match="is there already"):
        make_soup(both, tmp_path, "delta")
    assert not out.exists()
