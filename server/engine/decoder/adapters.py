"""LoRA adapters of one backbone as rows of its forward: ``y = x Wᵀ + s · (x Aᵀ) Bᵀ``, A and B by lane."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from server.engine.decoder.lanes import Lanes
from server.engine.decoder.weights import GROUPS


@dataclass(frozen=True, slots=True)
class Slice:
    """Where one projection of a fused group lies: its columns of A's product, and of the output; ``up`` [adapters, rank, out]."""

    ranks: slice
    out: slice
    up: torch.Tensor


class AdapterGroup:
    """The adapters of one fused group of projections.

    Args:
        down: [adapters, in, ranks of all slices], A of every adapter; lower ranks are filled up with 0.
        slices: B of every projection, the scale in it.
    """

    def __init__(self, down: torch.Tensor, slices: Sequence[Slice]) -> None:
        self._down = down
        self._slices = tuple(slices)

    @property
    def nbytes(self) -> int:
        """Bytes of A and B of all adapters."""
        return self._down.nbytes + sum(part.up.nbytes for part in self._slices)

    def add(self, out: torch.Tensor, x: torch.Tensor, lanes: Lanes) -> None:
        """Add to ``out`` [rows, out] what the adapters make of ``x`` [rows, in]; in place, all in the activations' dtype."""
        if lanes.alike and len(lanes.adapters) > 1:
            self._add_batch(out, x, lanes)
            return
        for index, start, stop in lanes.adapters:
            low = x[start:stop] @ self._down[index]
            for part in self._slices:
                out[start:stop, part.out].addmm_(low[:, part.ranks], part.up[index])

    def _add_batch(self, out: torch.Tensor, x: torch.Tensor, lanes: Lanes) -> None:
        first, last = lanes.adapters[0], lanes.adapters[-1]
        count = len(lanes.adapters)
        chosen = slice(first.which, last.which + 1)
        rows = x[first.start : last.stop].view(count, -1, x.shape[1])
        low = torch.bmm(rows, self._down[chosen])
        target = out[first.start : last.stop].view(count, -1, out.shape[1])
        for part in self._slices:
            target[:, :, part.out].baddbmm_(low[:, :, part.ranks], part.up[chosen])


@dataclass(frozen=True, slots=True)
class Adapters:
    """All adapters of a backbone: per layer and group of projections, and of the head; None where none of them adds."""

    layers: tuple[dict[str, AdapterGroup | None], ...]
    head: AdapterGroup | None

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        groups = [group for layer in self.layers for group in layer.values()]
        return sum(group.nbytes for group in [*groups, self.head] if group is not None)


def collect(model: Any, names: Sequence[str]) -> Adapters | None:
    """The adapters ``names`` that peft has put on ``model``; None where one of them is more than plain LoRA on projections."""
    places = [
        layer.get_submodule(path)
        for layer in model.model.layers
        for paths in GROUPS.values()
        for path in paths
    ]
    places.append(model.lm_head)
    if not _all_plain(model, places, names):
        return None
    return Adapters(
        layers=tuple(
            {
                group: _group([layer.get_submodule(path) for path in paths], names)
                for group, paths in GROUPS.items()
            }
            for layer in model.model.layers
        ),
        head=_group([model.lm_head], names),
    )


def _all_plain(model: Any, places: Sequence[Any], names: Sequence[str]) -> bool:
    """Whether the adapters are on these modules only, and each adds ``B A x`` times a number there."""
    from peft.tuners.lora.layer import Linear
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    known = {id(place) for place in places}
    for module in model.modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            return False
        if not isinstance(module, BaseTunerLayer):
            continue
        if id(module) not in known or type(module) is not Linear or module.fan_in_fan_out:
            return False
        for name in names:
            if name in module.lora_variant or module.lora_bias.get(name):
                return False
    return True


def _group(linears: Sequence[Any], names: Sequence[str]) -> AdapterGroup | None:
    """The adapters of projections that read the same input, side by side; None where none of them has any."""
    pairs = [[_pair(linear, name) for name in names] for linear in linears]
    ranks = [max((len(pair[0]) for pair in row if pair), default=0) for row in pairs]
    if not any(ranks):
        return None
    reference = next(pair[0] for row in pairs for pair in row if pair)
    down = reference.new_zeros(len(names), reference.shape[1], sum(ranks))
    slices: list[Slice] = []
    begin = end = 0
    for linear, row, rank in zip(linears, pairs, ranks, strict=True):
        width = linear.out_features
        up = reference.new_zeros(len(names), rank, width)
        for index, pair in enumerate(row):
            if pair:
                down[index, :, begin : begin + len(pair[0])] = pair[0].T
                up[index, : len(pair[0])] = pair[1]
        if rank:
            slices.append(Slice(slice(begin, begin + rank), slice(end, end + width), up))
        begin, end = begin + rank, end + width
    return AdapterGroup(down, slices)


def _pair(linear: Any, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A [rank, in] and s·Bᵀ [rank, out] of one adapter on one projection, if it has any there."""
    if name not in getattr(linear, "lora_A", ()):
        return None
    low, high = linear.lora_A[name].weight.data, linear.lora_B[name].weight.data
    dtype = torch.float32 if low.device.type == "cpu" else low.dtype  # as the activations
    return low.to(dtype), (high.to(dtype) * linear.scaling[name]).T
