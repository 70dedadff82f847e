"""How far the mix is from the base alone, and how far it may go."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from server.engine.transfer import upload

BISECTIONS = 24
"""Halvings of [0, 1]: the scale is known to 6e-8, about what float32 can tell apart."""


def kl(guided: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """KL(guided ‖ base) in nats per row [rows] of two tensors of log-probs [rows, vocab]."""
    # A token that the mix rules out adds nothing, whatever the base thinks of it.
    terms = torch.where(guided > -torch.inf, guided.exp() * (guided - base), 0.0)
    return terms.sum(-1).clamp_min(0.0)


def limit(
    mixed: torch.Tensor, base: torch.Tensor, most: Sequence[float], *, sync: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pull each row of the mix towards the base until KL(guided ‖ base) is at most ``most`` nats.

    Row r becomes ``z_base + s · (z_mix − z_base)`` with the largest s in [0, 1] that holds; for log π_base + Σ w_i log π_i
    that is every w_i times s. KL grows with s along this path, so s is found by bisection, for all rows at once.

    Args:
        mixed, base: logits [rows, vocab].
        sync: whether Python may wait for the device, to leave out rows that are within their limit.

    Returns:
        The logits [rows, vocab], and s [rows]. Rows that are within their limit come back bit for bit, with s = 1.
    """
    bounds = upload(most, mixed.device, mixed.dtype)
    alone, guided = base.log_softmax(-1), mixed.log_softmax(-1)
    over = kl(guided, alone) > bounds
    if not sync:
        pulled, scales = _pull(guided, alone, bounds)
        return torch.where(over[:, None], pulled, mixed), torch.where(over, scales, 1.0)
    places = over.nonzero()[:, 0]
    scales = mixed.new_ones(mixed.shape[0])
    if not len(places):
        return mixed, scales
    pulled, scales[places] = _pull(guided[places], alone[places], bounds[places])
    return mixed.index_copy(0, places, pulled), scales


def _pull(
    guided: torch.Tensor, alone: torch.Tensor, bounds: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of log-probs that go beyond their bounds, pulled back as :func:`limit` says, and s."""
    # Log-probs keep the difference small where logits carry a large common shift.
    way = guided - alone
    low, high = torch.zeros_like(bounds), torch.ones_like(bounds)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        fits = kl((alone + middle[:, None] * way).log_softmax(-1), alone) <= bounds
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return alone + low[:, None] * way, low
