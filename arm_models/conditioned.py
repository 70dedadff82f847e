"""Bilinear LoRA conditioned on a preference vector (PBLoRA of PARM, arXiv 2505.06274): one adapter for every preference.

``ΔW(p) = s · (B1 W1 A1 + B2 W2(p) A2)`` with ``W2(p) = Σ_i p_i W2_i``: the first half is shared, of the second only an r2 × r2
core depends on p. Because that core is linear in p, rows of one batch may each have their own p at the price of one
elementwise product.
"""

import copy
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from arm_models.errors import UserError
from arm_models.loading.checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Checkpoint, one_line

PEFT_TYPE = "PBLORA"
ALL_LINEAR = "all-linear"
"""Every linear layer but the output head."""


@dataclass(frozen=True)
class ConditionedConfig:
    """What a conditioned adapter is.

    objectives: what the entries of p weight, in their order. base_model_name_or_path: the backbone. r1, r2: ranks of the shared
    and of the conditioned half. scale: s. target_modules: last names of the layers it is on, or "all-linear".
    Raises UserError where a field is out of range.
    """

    objectives: tuple[str, ...]
    base_model_name_or_path: str = ""
    r1: int = 4
    r2: int = 4
    scale: float = 2.0
    target_modules: tuple[str, ...] = (ALL_LINEAR,)

    def __post_init__(self) -> None:
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise UserError(f"objectives must be one or more different names, not {list(self.objectives)}")
        for name in ("r1", "r2"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise UserError(f"scale must be above 0, not {self.scale}")
        if not self.target_modules:
            raise UserError(f"target_modules must name a layer, or be {ALL_LINEAR}")


class ConditionedLinear(nn.Module):
    """A linear layer with a conditioned addition; ``condition`` None: the layer alone.

    A1 [r1, in], W1 [r1, r1], B1 [out, r1], A2 [r2, in], W2 [objectives, r2, r2], B2 [out, r2]. A and W begin as a linear layer's
    weights do, B as 0, so that ΔW is 0 at first for every p.
    """

    condition: Tensor | None

    def __init__(self, base_layer: nn.Module, config: ConditionedConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.scale = config.scale
        self.condition = None
        linear = _plain(base_layer)
        self.out_features, self.in_features = _sizes(linear)
        device, r1, r2 = linear.weight.device, config.r1, config.r2
        self.A1 = _kaiming(r1, self.in_features, device=device)
        self.W1 = _kaiming(r1, r1, device=device)
        self.B1 = nn.Parameter(torch.zeros(self.out_features, r1, device=device))
        self.A2 = _kaiming(r2, self.in_features, device=device)
        self.W2 = _kaiming(len(config.objectives), r2, r2, device=device)
        self.B2 = nn.Parameter(torch.zeros(self.out_features, r2, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [B, T, in] → [B, T, out] in the layer's own dtype."""
        out: Tensor = self.base_layer(x)
        return out if self.condition is None else out + self._added(x, self.condition).to(out.dtype)

    def _added(self, x: Tensor, condition: Tensor) -> Tensor:
        own, p = x.to(self.A1.dtype), condition.to(self.A1.dtype)
        fixed = F.linear(F.linear(F.linear(own, self.A1), self.W1), self.B1)
        p = p[:, None] if p.dim() == 2 else p
        # Σ_i p_i W2_i (A2 x) as one product: A2 x once for each objective, times its p_i.
        low = (p[..., None] * F.linear(own, self.A2)[..., None, :]).flatten(-2)
        core = self.W2.transpose(1, 2).flatten(0, 1)
        return self.scale * (fixed + F.linear(low @ core, self.B2))

    def stacked(self) -> tuple[Tensor, Tensor]:
        """The addition as low rank whose hidden values are scaled: ``ΔW x = high.T @ (row · (low @ x))``.

        low [r1 + objectives·r2, in], high [the same, out] with the scale in it; ``row`` is 1 for the first r1 and p_i for each
        r2 of objective i (:func:`stacked_row`).
        """
        cores = [self.B2.float() @ core.float() for core in self.W2]
        high = torch.cat([self.B1.float() @ self.W1.float(), *cores], dim=1).T * self.scale
        low = torch.cat([self.A1.float(), *[self.A2.float()] * len(cores)])
        return low, high

    def delta(self, p: Tensor) -> Tensor:
        """ΔW(p) [out, in] float32 for one ``p`` [objectives]."""
        low, high = self.stacked()
        row = torch.cat([p.new_ones(len(self.A1)), p.repeat_interleave(len(self.A2))])
        return high.T @ (row.to(low)[:, None] * low)


def add_conditioned(model: Any, config: ConditionedConfig) -> Any:
    """Put a fresh conditioned adapter on ``model``, a causal LM of transformers; the same model, with nothing else to be trained.

    Its parameters are float32. Raises UserError where no layer has a target's name or the model has such an adapter already.
    """
    if any(True for _ in conditioned_layers(model)):
        raise UserError("the model has a conditioned adapter already")
    model.requires_grad_(False)
    for path in _targets(model, config.target_modules):
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, ConditionedLinear(model.get_submodule(path), config))
    return model


def conditioned_layers(model: nn.Module) -> Iterator[tuple[str, ConditionedLinear]]:
    """The layers a conditioned adapter is on, with their paths."""
    for path, module in model.named_modules():
        if isinstance(module, ConditionedLinear):
            yield path, module


def set_condition(model: nn.Module, p: Tensor | None) -> None:
    """What forwards of ``model`` are conditioned on from now on.

    p: [objectives] for all, [B, objectives] for each text of the batch, [B, T, objectives] for each token; None: the backbone
    alone. Raises ValueError where the last dimension is not the number of objectives.
    """
    for _, layer in conditioned_layers(model):
        if p is not None and p.shape[-1] != len(layer.W2):
            raise ValueError(
                f"p has {p.shape[-1]} entries, the adapter is conditioned on {len(layer.W2)} objectives"
            )
        layer.condition = p


def merged(model: Any, p: Tensor) -> Any:
    """A copy of ``model`` with the adapter added into its weights for one ``p`` [objectives]: a plain model of transformers."""
    whole = copy.deepcopy(model)
    with torch.no_grad():
        for path, layer in list(conditioned_layers(whole)):
            linear = _plain(layer.base_layer)
            delta = layer.delta(p.to(layer.A1.device))
            linear.weight += (delta.T if isinstance(linear, Conv1D) else delta).to(linear.weight.dtype)
            parent, _, name = path.rpartition(".")
            setattr(whole.get_submodule(parent), name, layer.base_layer)
    return whole


def save_conditioned(model: nn.Module, folder: Path, config: ConditionedConfig) -> None:
    """Write the adapter of ``model`` into ``folder``: adapter_config.json and adapter_model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"peft_type": PEFT_TYPE} | asdict(config)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    save_file({key: tensor.contiguous() for key, tensor in _tensors(model)}, folder / ADAPTER_WEIGHTS)


def is_conditioned(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is a conditioned adapter."""
    return checkpoint.is_adapter and checkpoint.config.get("peft_type") == PEFT_TYPE


def read_config(checkpoint: Checkpoint) -> ConditionedConfig:
    """The settings in adapter_config.json; raises CheckpointError naming the field that is wrong."""
    raw = checkpoint.config
    if not is_conditioned(checkpoint):
        raise checkpoint.error(
            f"adapter_config.json: peft_type must be {PEFT_TYPE} for a conditioned adapter"
        )
    try:
        return ConditionedConfig(
            objectives=_names(raw, "objectives"),
            base_model_name_or_path=str(raw.get("base_model_name_or_path") or ""),
            r1=_whole(raw, "r1"),
            r2=_whole(raw, "r2"),
            scale=_number(raw, "scale"),
            target_modules=_names(raw, "target_modules"),
        )
    except UserError as error:
        raise checkpoint.error(f"adapter_config.json: {error}") from error


def load_conditioned(backbone: Any, checkpoint: Checkpoint) -> Any:
    """Put the saved adapter on ``backbone``, switched off; the same model. Its parameters are float32 and can be trained.

    Raises CheckpointError where its tensors do not fit the backbone or are not all there.
    """
    try:
        add_conditioned(backbone, read_config(checkpoint))
    except UserError as error:
        raise checkpoint.error(
            str(error).removeprefix(f"{checkpoint.name}: {checkpoint.folder}: ")
        ) from error
    places = dict(_tensors(backbone))
    try:
        tensors = load_file(checkpoint.weights[0])
    except (OSError, ValueError) as error:
        raise checkpoint.error(f"cannot be loaded: {one_line(error)}") from error
    if places.keys() != tensors.keys():
        lacking, foreign = sorted(places.keys() - tensors.keys()), sorted(tensors.keys() - places.keys())
        what = f"the adapter lacks {lacking[0]}" if lacking else f"the backbone has no place for {foreign[0]}"
        raise checkpoint.error(what)
    for key, place in places.items():
        if place.shape != tensors[key].shape:
            raise checkpoint.error(
                f"{key} is {list(tensors[key].shape)}, the backbone needs {list(place.shape)}"
            )
        place.data.copy_(tensors[key])
    return backbone


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The adapter's parameters under names that do not depend on what else is on the model's layers."""
    for path, layer in conditioned_layers(model):
        for name, parameter in layer.named_parameters(recurse=False):
            yield f"{path}.{name}", parameter


def _targets(model: Any, names: tuple[str, ...]) -> list[str]:
    """Paths of the layers to adapt, those that another adapter is around included."""
    head = _plain(model.get_output_embeddings())
    inside = ".base_layer"
    found = [
        path.removesuffix(inside)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head and ".lora_" not in path
    ]
    if ALL_LINEAR in names:
        return found
    known = {path.rpartition(".")[2] for path in found}
    for name in names:
        if name not in known:
            raise UserError(
                f"target_modules: the model has no linear layer {name!r}; it has {', '.join(sorted(known))}"
            )
    return [path for path in found if path.rpartition(".")[2] in names]


def _plain(module: Any) -> Any:
    """A linear layer without the adapters around it."""
    while hasattr(module, "base_layer"):
        module = module.base_layer
    return module


def _sizes(linear: Any) -> tuple[int, int]:
    """Outputs and inputs."""
    rows, columns = linear.weight.shape
    return (columns, rows) if isinstance(linear, Conv1D) else (rows, columns)


def _kaiming(*shape: int, device: torch.device) -> nn.Parameter:
    """As torch initialises a linear layer, LoRA its A."""
    tensor = torch.empty(*shape, device=device)
    bound = 1 / math.sqrt(shape[-1])
    return nn.Parameter(tensor.uniform_(-bound, bound))


def _names(raw: Mapping[str, Any], field: str) -> tuple[str, ...]:
    value = raw.get(field)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UserError(f"{field} must be a list of names")
    return tuple(value)


def _whole(raw: Mapping[str, Any], field: str) -> int:
    value = raw.get(field)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{field} must be a whole number")
    return value


def _number(raw: Mapping[str, Any], field: str) -> float:
    value = raw.get(field)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"{field} must be a number")
    return float(value)
