"""A model in a soup, and what has to agree between models before their weights can be averaged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safetensors import safe_open

from arm_models.errors import UserError
from arm_models.loading.checkpoint import Checkpoint, open_checkpoint
from arm_models.loading.vocabulary import TOKENIZER_FILES, load_tokenizer
from arm_models.tokenizer_hash import tokenizer_hash

TOLERANCE = 1e-6
OF_NO_EFFECT = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}
)
"""Keys of config.json in which models of one architecture may differ; the class is compared with the tensors' names."""
PLAIN_LORA = ("rank_pattern", "alpha_pattern", "use_dora", "modules_to_save", "layer_replication")


@dataclass(frozen=True)
class Part:
    """A checkpoint and its share w of the soup."""

    checkpoint: Checkpoint
    weight: float


def read_parts(items: Sequence[str]) -> list[Part]:
    """FOLDER=WEIGHT items as parts; raises UserError unless there are two or more whose weights, ≥ 0, sum to 1."""
    parts = []
    for item in items:
        path, sign, text = item.rpartition("=")
        try:
            weight = float(text) if sign else math.nan
        except ValueError:
            weight = math.nan
        if not path or not 0 <= weight <= 1:
            raise UserError(f"--model {item}: must be FOLDER=WEIGHT, the weight from 0 to 1")
        parts.append(Part(open_checkpoint("--model", path), weight))
    total = math.fsum(part.weight for part in parts)
    if len(parts) < 2 or abs(total - 1) > TOLERANCE:
        raise UserError(
            f"--model: two or more whose weights sum to 1, got {len(parts)} that sum to {total:g}"
        )
    return parts


def check_alike(parts: Sequence[Part], base: Checkpoint | None) -> None:
    """Raises UserError naming the first model that cannot be averaged with the first one, and in what it differs.

    base: what they all started from: tensors of one name are of one shape, adapters fit on its layers.
    """
    first = parts[0].checkpoint
    others = [part.checkpoint for part in parts[1:]]
    for other in others:
        if other.is_adapter != first.is_adapter:
            raise other.error("adapters and full models cannot be averaged")
    if first.is_adapter:
        for part in parts:
            check_plain_lora(part.checkpoint)
        _check_configs(first, others, ("base_model_name_or_path", "fan_in_fan_out", "task_type"))
    else:
        _check_configs(first, others, None)
    shapes = tensor_shapes(first)
    for other in others:
        _check_shapes(other, shapes, ranks_may_differ=first.is_adapter)
    if base is not None:
        _check_base(first, base, shapes)
    _check_tokenizers(parts, base)


def check_plain_lora(adapter: Checkpoint) -> None:
    """Raises CheckpointError unless ΔW = s·B·A with one s and one rank for all layers is all there is to it."""
    config = adapter.config
    if config.get("peft_type") != "LORA":
        raise adapter.error(f"adapters of type {config.get('peft_type')} cannot be averaged, only LORA")
    for name in PLAIN_LORA:
        if config.get(name):
            raise adapter.error(f"adapters with {name} cannot be averaged")
    if config.get("bias", "none") != "none":
        raise adapter.error(f"adapters with bias={config['bias']!r} cannot be averaged")
    strange = [
        name for name in tensor_shapes(adapter) if not name.endswith((".lora_A.weight", ".lora_B.weight"))
    ]
    if strange:
        raise adapter.error(f"adapters with {strange[0]} cannot be averaged")


def tensor_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor in it."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in checkpoint.weights:
        with safe_open(path, framework="pt") as tensors:
            shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return shapes


def _check_configs(first: Checkpoint, others: Sequence[Checkpoint], compared: tuple[str, ...] | None) -> None:
    for other in others:
        names = compared or sorted((first.config.keys() | other.config.keys()) - OF_NO_EFFECT)
        for name in names:
            one, two = first.config.get(name), other.config.get(name)
            if one != two:
                raise other.error(f"its {name} is {_short(two)}, that of {first.folder.name} {_short(one)}")


def _check_shapes(other: Checkpoint, shapes: dict[str, tuple[int, ...]], ranks_may_differ: bool) -> None:
    own = tensor_shapes(other)
    differing = sorted(own.keys() ^ shapes.keys())
    if differing:
        raise other.error(f"only one of the models has {differing[0]}")
    for name, shape in own.items():
        # An adapter's rank is the first dimension of A and the last of B.
        free = (0 if ".lora_A." in name else 1) if ranks_may_differ else None
        if any(a != b for place, (a, b) in enumerate(zip(shape, shapes[name], strict=True)) if place != free):
            raise other.error(f"{name} is {list(shape)}, that of the first model {list(shapes[name])}")


def _check_base(first: Checkpoint, base: Checkpoint, shapes: dict[str, tuple[int, ...]]) -> None:
    if base.is_adapter:
        raise base.error("--base must be a full model")
    layers = tensor_shapes(base)
    if not first.is_adapter:
        # A reward model may have another head than its base: what both have is compared.
        shared = sorted(layers.keys() & shapes.keys())
        differing = [name for name in shared if layers[name] != shapes[name]]
        if differing:
            name = differing[0]
            raise base.error(f"{name} is {list(layers[name])}, that of the parts {list(shapes[name])}")
        if not shared:
            raise base.error("it has none of the parts' tensors")
        return
    for name in shapes:
        if name.endswith(".lora_A.weight"):
            stem = name.removesuffix(".lora_A.weight")
            layer = layers.get(f"{stem.removeprefix('base_model.model.')}.weight", ())
            if {shapes[name][1], shapes[f"{stem}.lora_B.weight"][0]} != set(layer):
                raise base.error(f"it has no layer that the adapters' {stem} fits on")


def _check_tokenizers(parts: Sequence[Part], base: Checkpoint | None) -> None:
    hashes: dict[str, Checkpoint] = {}
    for checkpoint in [*(part.checkpoint for part in parts), *([base] if base else [])]:
        if any((checkpoint.folder / name).is_file() for name in TOKENIZER_FILES):
            hashes.setdefault(tokenizer_hash(load_tokenizer(checkpoint, None, None)), checkpoint)
    if len(hashes) > 1:
        first, second, *_ = hashes.values()
        raise second.error(f"its tokenizer is not that of {first.folder.name}")


def _short(value: Any) -> str:
    return repr(value)[:80]
