"""The Muon optimizer (Jordan et al., 2024): momentum whose matrices are made orthogonal before each update.

On the demo's models it needs about half the tokens that AdamW needs for the same loss, which is what makes a base of
5 M parameters affordable on two cores. ``torch.optim.Muon`` works in bfloat16, which CPUs without AVX-512 emulate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalised(update: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """About U Vᵀ of ``update`` = U S Vᵀ ([m, n] float32), by a quintic Newton-Schulz iteration."""
    a, b, c = _COEFFICIENTS
    x = update / (update.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    made: torch.Tensor = x.T if tall else x
    return made


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum for parameters of two dimensions; scaled so that AdamW's learning rates fit."""

    def __init__(
        self, params: Iterable[torch.Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        average = state.setdefault("momentum", torch.zeros_like(parameter))
        average.lerp_(gradient, 1.0 - group["momentum"])
        update = orthogonalised(gradient.lerp(average, group["momentum"]))
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)


def muon_with_adamw(model: torch.nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms; learning rates are set per step."""
    matrices: list[torch.Tensor] = []
    others: list[torch.Tensor] = []
    for name, parameter in model.named_parameters():
        inside = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        (matrices if inside else others).append(parameter)
    return Muon(matrices, lr=0.0), torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
