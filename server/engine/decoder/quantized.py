"""A linear layer in 8 bits: quarter the bytes to read, and a product in integers."""

import torch
from torch.nn import functional as F

from arm_models.errors import UserError

_LEVELS = 127
_ZERO = 128
"""Activations are multiplied as unsigned bytes around this one: CPUs have a fast product of unsigned by signed bytes only."""

_TINY = 1e-30
"""Stands in for the scale of a row of zeros."""

_TOLERANCE = 1e-4
"""How far the integer product may lie from the same product in float32, relative to its largest value."""


class QuantizedProjection:
    """y = x Wᵀ + b with symmetric int8 weights, a scale for every output, and int8 activations, a scale for every row.

    Activations are rounded at every call, each row by itself: its bits do not depend on the rows beside it. Not by groups of
    inputs, and without calibration: a few large inputs in a row cost the others precision.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """``weight`` [out, in] and ``bias`` [out], float32 on a CPU; neither is kept.

        Raises:
            UserError: this machine or this build of torch has no such product, or a wrong one.
        """
        self.out_features, self.in_features = weight.shape
        levels, self._scale = _quantize(weight)
        self._bias = None if bias is None else bias.clone()
        try:
            self._weight = torch.ops.onednn.qlinear_prepack(levels, None)
            self._zero_points = torch.zeros(self.out_features, dtype=torch.int64)
            right = self._agrees(levels)
        except (RuntimeError, AttributeError) as error:
            raise UserError(f"dtype int8 cannot be used on this machine: {error}") from error
        if not right:
            raise UserError(
                "dtype int8 cannot be used on this machine: its integer products are wrong; use float32 or bfloat16"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of the weights and their scales."""
        weight: int = torch.ops.mkldnn._nbytes(self._weight)
        return weight + self._scale.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens, in_features] float32 → [tokens, out_features] float32."""
        levels, scale = _quantize_rows(x)
        # One operation at a time: fused ones round differently at the end of a tensor, so a row's bits would depend on its place.
        product = self._multiply(levels).mul_(scale)
        return product if self._bias is None else product.add_(self._bias)

    def _multiply(self, levels: torch.Tensor) -> torch.Tensor:
        """[tokens, in] uint8 → [tokens, out] float32, the scale of the rows left out."""
        one = 1.0
        arguments = (levels, one, _ZERO, self._weight, self._scale, self._zero_points, None, one, 0)
        product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(*arguments, torch.float32, "none", [], "")
        return product

    def _agrees(self, levels: torch.Tensor) -> bool:
        """Whether the product is right. A row of ones is among the probes: it overflows where a CPU adds in 16 bits."""
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(3, self.in_features, generator=generator)
        probe[0] = 1.0
        rows, _ = _quantize_rows(probe)
        plain = F.linear(rows.float() - _ZERO, levels.float()) * self._scale
        return bool((self._multiply(rows) - plain).abs().max() <= _TOLERANCE * plain.abs().max())


def _quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[out, in] int8 and [out] float32, whose product is close to ``weight``."""
    scale = weight.abs().amax(1).clamp_min_(_TINY).div_(_LEVELS)
    return (weight / scale[:, None]).round_().to(torch.int8), scale


def _quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[tokens, in] uint8, and [tokens, 1] float32 by which its distance from the zero level is to be multiplied."""
    scale = x.abs().amax(1, keepdim=True).clamp_min_(_TINY).div_(_LEVELS)
    # All positive, so that cutting off the fraction rounds to the nearest.
    return (x / scale).add_(_ZERO + 0.5).to(torch.uint8), scale
