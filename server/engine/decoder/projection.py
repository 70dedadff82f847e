"""Linear layers over packed tokens, held in the form that this machine multiplies fastest."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch.nn import functional as F

from arm_models.errors import UserError
from server.engine.decoder.quantized import QuantizedProjection

_ROWS_AT_PACKING = 32
"""Rows for which oneDNN chooses the layout of a packed matrix: the one for 1 row is half as fast at every other number."""

_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""How far a packed product may lie from the plain one, relative to the largest value of the product."""


class Projection(Protocol):
    """y = x Wᵀ + b over packed tokens."""

    in_features: int
    out_features: int

    @property
    def nbytes(self) -> int:
        """Bytes of the weights as they are held, the bias not counted."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens, in_features] → [tokens, out_features]; both in the dtype of the weights."""


def project(
    weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None], *, quantize: bool = False
) -> Projection:
    """One projection for one or several matrices that read the same input.

    weights: each [out_i, in], of one dtype on one device; the result's features are theirs one after the other. biases: [out_i]
    or None for each matrix. quantize: hold float32 weights of a CPU in 8 bits. A plain projection of a single matrix keeps that
    matrix, every other one a copy of its own.

    Raises:
        ValueError: no weight, or not one bias entry for each.
        UserError: ``quantize`` for other weights, or on a machine without the operations.
    """
    if not weights or len(biases) != len(weights):
        raise ValueError(
            f"{len(weights)} weights and {len(biases)} biases; at least one weight, one bias entry each"
        )
    weight = weights[0] if len(weights) == 1 else torch.cat(list(weights))
    bias = _fused_bias(weights, biases)
    if quantize:
        return _quantized(weight, bias)
    return _packed(weight, bias) or _Plain(weight, bias)


@torch.no_grad()
def _quantized(weight: torch.Tensor, bias: torch.Tensor | None) -> QuantizedProjection:
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise UserError(
            f"dtype int8 is for float32 weights on a CPU, not for {weight.dtype} on {weight.device}"
        )
    return QuantizedProjection(weight, bias)


def _fused_bias(
    weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None]
) -> torch.Tensor | None:
    if all(bias is None for bias in biases):
        return None
    pairs = zip(weights, biases, strict=True)
    return torch.cat([w.new_zeros(w.shape[0]) if b is None else b for w, b in pairs])


class _Plain:
    """The matrix as it is stored, for whatever has no better form."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.out_features, self.in_features = weight.shape
        self._weight = weight
        self._bias = bias

    @property
    def nbytes(self) -> int:
        return self._weight.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._weight, self._bias)


class _Packed:
    """The matrix in oneDNN's blocked layout.

    Every row has the same bits whatever the number of rows beside it. Where a lone row is summed in another order than two are
    (long inputs), it is given a second one.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.out_features, self.in_features = weight.shape
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_AT_PACKING)
        self._bias = bias
        probe = _probe(weight)
        self._pair_lone_row = not torch.equal(self._multiply(probe[:1]), self._multiply(probe)[:1])

    @property
    def nbytes(self) -> int:
        size: int = torch.ops.mkldnn._nbytes(
            self._weight
        )  # with oneDNN's padding, which Tensor.nbytes leaves out
        return size

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._pair_lone_row and x.shape[0] == 1:
            return self._multiply(x.expand(2, -1))[:1]
        return self._multiply(x)

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, "none", [], ""
        )
        return product


@torch.no_grad()
def _packed(weight: torch.Tensor, bias: torch.Tensor | None) -> _Packed | None:
    """The packed form, where oneDNN has a fast one on this machine and it gives what the plain one gives."""
    if not _packs(weight):
        return None
    try:
        packed = _Packed(weight, bias)
        probe = _probe(weight)
        plain, product = F.linear(probe, weight, bias), packed(probe)
    except (RuntimeError, AttributeError):  # an op refuses the shape, or this build of torch has none
        return None
    worst = (product - plain).abs().max()
    return packed if worst <= _TOLERANCE[weight.dtype] * plain.abs().max() else None


def _packs(weight: torch.Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return weight.dtype == torch.float32


def _probe(weight: torch.Tensor) -> torch.Tensor:
    """The same few random rows every time: [3, in], in the weight's dtype."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, weight.shape[1], generator=generator).to(weight.dtype)
