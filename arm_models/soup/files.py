"""Checkpoints in, one checkpoint out. Weights are read a file at a time."""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from arm_models.errors import UserError
from arm_models.loading.checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Checkpoint
from arm_models.soup.average import average, stacked_updates
from arm_models.soup.part import Part, check_alike

Tensors = dict[str, Tensor]
OWN_CARDS = ("arm.json", "README.md")


def make_soup(parts: Sequence[Part], output: Path, method: str, base: Checkpoint | None = None) -> None:
    """Write the average of ``parts`` to ``output``, a folder that is not there yet; whole or not at all.

    method: of adapters, "delta" averages the update ΔW exactly, "factors" the factors A and B. Full models have one way.
    base: what all started from; they are checked against it, and adapters name it as their backbone.
    Raises UserError naming the first model that cannot be averaged with the others.
    """
    if output.exists():
        raise UserError(f"--output {output}: is there already")
    first = parts[0].checkpoint
    if method not in METHODS or (method == "factors" and not first.is_adapter):
        raise UserError(f"--method {method}: of full models there is one average, delta")
    check_alike(parts, base)
    beside = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        for file in sorted(first.folder.iterdir()):
            if file.suffix in (".json", ".jinja", ".model", ".txt") and file.name not in OWN_CARDS:
                shutil.copyfile(file, beside / file.name)
        if first.is_adapter:
            _write_adapter(parts, beside, method, base)
        else:
            _write_model(parts, beside)
        _write_cards(parts, beside, output.name, method)
        beside.rename(output)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror or error}") from error


def _write_model(parts: Sequence[Part], folder: Path) -> None:
    """Files of weights as the first model has them, whatever the others' look like."""
    places = [_places(part.checkpoint) for part in parts]
    weights = [part.weight for part in parts]
    for file in parts[0].checkpoint.weights:
        names = [name for name, place in places[0].items() if place == file]
        tensors = {}
        for name in tqdm(names, desc=f"average {file.name}", disable=None, leave=False):
            tensors[name] = average([_tensor(place[name], name) for place in places], weights)
        save_file(tensors, folder / file.name, metadata={"format": "pt"})


def _write_adapter(parts: Sequence[Part], folder: Path, method: str, base: Checkpoint | None) -> None:
    adapters = [load_file(part.checkpoint.weights[0]) for part in parts]
    tensors, changes = METHODS[method](parts, adapters)
    if base is not None:
        changes = changes | {"base_model_name_or_path": str(base.folder)}
    config = parts[0].checkpoint.config | changes
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def _delta(parts: Sequence[Part], adapters: Sequence[Tensors]) -> tuple[Tensors, dict[str, Any]]:
    """ΔW = Σ w_i s_i B_i A_i, exactly, as one adapter of the summed rank; a weight of 0 takes no part."""
    used = [(part, own) for part, own in zip(parts, adapters, strict=True) if part.weight]
    weights = [part.weight for part, _ in used]
    scales = [scale_of(part.checkpoint) for part, _ in used]
    tensors: Tensors = {}
    for down in (name for name in adapters[0] if ".lora_A." in name):
        up = down.replace(".lora_A.", ".lora_B.")
        tensors[down], tensors[up] = (
            tensor.contiguous()
            for tensor in stacked_updates(
                [own[down] for _, own in used], [own[up] for _, own in used], scales, weights
            )
        )
    rank = sum(int(part.checkpoint.config["r"]) for part, _ in used)
    return tensors, {"r": rank, "lora_alpha": rank, "use_rslora": False}


def _factors(parts: Sequence[Part], adapters: Sequence[Tensors]) -> tuple[Tensors, dict[str, Any]]:
    """A = Σ w_i A_i and B = Σ w_i B_i: of the first one's rank, and not the average of the updates."""
    first = parts[0].checkpoint
    for part in parts[1:]:
        one = (part.checkpoint.config["r"], scale_of(part.checkpoint))
        if one != (first.config["r"], scale_of(first)):
            raise part.checkpoint.error(
                "factors of another rank or scale cannot be averaged; use --method delta"
            )
    weights = [part.weight for part in parts]
    return {name: average([own[name] for own in adapters], weights) for name in adapters[0]}, {}


METHODS: Mapping[str, Callable[[Sequence[Part], Sequence[Tensors]], tuple[Tensors, dict[str, Any]]]] = (
    MappingProxyType({"delta": _delta, "factors": _factors})
)
"""How adapters are averaged: (tensors, changes to adapter_config.json)."""


def scale_of(adapter: Checkpoint) -> float:
    """The s of ΔW = s·B·A: alpha / r, or alpha / √r with rslora."""
    rank, alpha = int(adapter.config["r"]), float(adapter.config["lora_alpha"])
    return alpha / (math.sqrt(rank) if adapter.config.get("use_rslora") else rank)


def _places(checkpoint: Checkpoint) -> dict[str, Path]:
    """Tensor → the file it is in."""
    places: dict[str, Path] = {}
    for file in checkpoint.weights:
        with safe_open(file, framework="pt") as tensors:
            places |= dict.fromkeys(tensors.keys(), file)
    return places


def _tensor(file: Path, name: str) -> Tensor:
    with safe_open(file, framework="pt") as tensors:
        tensor: Tensor = tensors.get_tensor(name)
    return tensor


def _write_cards(parts: Sequence[Part], folder: Path, name: str, method: str) -> None:
    """arm.json, which says what it is made of and keeps the first part's hashes, and README.md."""
    first = parts[0].checkpoint
    hashes = ("base_tokenizer_sha256", "chat_template_sha256", "eos_token")
    known = first.read_json("arm.json") or {}
    made_of = [{"model": part.checkpoint.folder.name, "weight": part.weight} for part in parts]
    how = method if first.is_adapter else "weights"
    content = {"version": 1, "reward_name": name, "soup": {"averaged": how, "parts": made_of}}
    content |= {key: known[key] for key in hashes if key in known}
    (folder / "arm.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    averaged = {
        "weights": "the weights of full models, θ = Σ w_i θ_i",
        "delta": "the updates of LoRA adapters, ΔW = Σ w_i ΔW_i, exactly",
        "factors": "the factors of LoRA adapters, A = Σ w_i A_i and B = Σ w_i B_i, which is not the average of their updates",
    }[how]
    rows = "\n".join(f"| {part['model']} | {part['weight']:g} |" for part in made_of)
    (folder / "README.md").write_text(
        f"---\ntags:\n- rewarded-soup\n- genarm\n---\n\n# {name}\n\nA rewarded soup (arXiv 2306.04488): {averaged}.\n\n"
        f"| part | weight |\n|---|---|\n{rows}\n",
        encoding="utf-8",
    )
