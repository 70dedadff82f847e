"""LoRA adapters of one backbone as rows of its forward: ``y = x Wᵀ + s · (x Aᵀ) Bᵀ``, A and B by lane.

A conditioned adapter (PBLoRA, arXiv 2505.06274) is one of a higher rank whose hidden values are scaled row by row:
``A = [A1; A2; A2 …]``, ``B = [B1 W1, B2 W2_1, B2 W2_2 …]``, and what lies between is times ``[1 …, p_1 …, p_2 …]``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from arm_models.conditioned import ConditionedLinear
from arm_models.loading.family import CONDITIONED
from server.engine.decoder.lanes import Lanes
from server.engine.decoder.weights import GROUPS, decoder_shape


@dataclass(frozen=True, slots=True)
class Slice:
    """Where one projection of a fused group lies: its columns of A's product, and of the output; ``up`` [adapters, rank, out]."""

    ranks: slice
    out: slice
    up: torch.Tensor


@dataclass(frozen=True, slots=True)
class Conditioned:
    """The conditioned one among a group's adapters, and for each of its hidden values which of a row's factors it is times
    (``columns`` [ranks of all slices] int64, see :class:`Lanes`)."""

    which: int
    columns: torch.Tensor


class AdapterGroup:
    """The adapters of one fused group of projections.

    Args:
        down: [adapters, in, ranks of all slices], A of every adapter; lower ranks are filled up with 0.
        slices: B of every projection, the scale in it.
        conditioned: the adapter whose hidden values are scaled, if one is.
    """

    def __init__(
        self, down: torch.Tensor, slices: Sequence[Slice], conditioned: Conditioned | None = None
    ) -> None:
        self._down = down
        self._slices = tuple(slices)
        self._conditioned = conditioned

    @property
    def nbytes(self) -> int:
        """Bytes of A and B of all adapters."""
        return self._down.nbytes + sum(part.up.nbytes for part in self._slices)

    def add(self, out: torch.Tensor, x: torch.Tensor, lanes: Lanes) -> None:
        """Add to ``out`` [rows, out] what the adapters make of ``x`` [rows, in]; in place, all in the activations' dtype."""
        if lanes.alike and len(lanes.adapters) > 1 and self._conditioned is None:
            self._add_batch(out, x, lanes)
            return
        for index, start, stop in lanes.adapters:
            low = x[start:stop] @ self._down[index]
            if self._conditioned is not None and index == self._conditioned.which:
                assert lanes.factors is not None
                factors = lanes.factors[start:stop].index_select(1, self._conditioned.columns)
                low = (low * factors).to(low.dtype)
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
    """The adapters ``names`` on ``model``, peft's or the conditioned one; None where one of them is more than low rank on
    projections, or the model's forward is not known here."""
    if decoder_shape(model) is None:
        return None
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

    known = {id(layer) for place in places for layer in _around(place)}
    for module in model.modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            return False
        if isinstance(module, ConditionedLinear) and id(module) not in known:
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
    columns: list[int] = []
    for linear, row, rank in zip(linears, pairs, ranks, strict=True):
        columns += _columns(linear, rank)
        width = linear.out_features
        up = reference.new_zeros(len(names), rank, width)
        for index, pair in enumerate(row):
            if pair:
                down[index, :, begin : begin + len(pair[0])] = pair[0].T
                up[index, : len(pair[0])] = pair[1]
        if rank:
            slices.append(Slice(slice(begin, begin + rank), slice(end, end + width), up))
        begin, end = begin + rank, end + width
    if CONDITIONED not in names:
        return AdapterGroup(down, slices)
    chosen = torch.tensor(columns, device=down.device)
    return AdapterGroup(down, slices, Conditioned(list(names).index(CONDITIONED), chosen))


def _around(linear: Any) -> list[Any]:
    """A projection and, outermost first, the adapters around it."""
    layers = [linear]
    while hasattr(layers[-1], "base_layer"):
        layers.append(layers[-1].base_layer)
    return layers


def _columns(linear: Any, rank: int) -> list[int]:
    """Which factor each of ``rank`` hidden values is times in the conditioned adapter on ``linear``: 0 is the constant 1."""
    layer = next((one for one in _around(linear) if isinstance(one, ConditionedLinear)), None)
    if layer is None:
        return [0] * rank
    own = [0] * len(layer.A1)
    for objective in range(1, len(layer.W2) + 1):
        own += [objective] * len(layer.A2)
    return own + [0] * (rank - len(own))


def _pair(linear: Any, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A [rank, in] and s·Bᵀ [rank, out] of one adapter on one projection, if it has any there."""
    for layer in _around(linear):
        if name == CONDITIONED and isinstance(layer, ConditionedLinear):
            low, high = (part.detach() for part in layer.stacked())
            dtype = _activations(_around(linear)[-1].weight)
            return low.to(dtype), high.to(dtype)
        if name in getattr(layer, "lora_A", ()):
            low, high = layer.lora_A[name].weight.data, layer.lora_B[name].weight.data
            dtype = _activations(low)
            return low.to(dtype), (high.to(dtype) * layer.scaling[name]).T
    return None


def _activations(weight: torch.Tensor) -> torch.dtype:
    """What activations are where the weights are ``weight``'s."""
    return torch.float32 if weight.device.type == "cpu" else weight.dtype
