"""Reward against KL: what a method gets at the same distance from the base as another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

STEPS = 41
"""Points at which two curves are compared along the KL both reach."""


def at_kl(kl: Sequence[float], rewards: Sequence[float], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rewards at ``wanted`` KL, on straight lines between a method's settings in the order of their KL.

    ``kl`` (nats per token) and ``rewards``: one entry per setting, the base's own (KL 0) among them. Raises ``ValueError`` where
    ``wanted`` leaves what the settings span.
    """
    order = np.argsort(kl, kind="stable")
    distances, values = np.asarray(kl, dtype=np.float64)[order], np.asarray(rewards, dtype=np.float64)[order]
    if wanted.min() < distances[0] - 1e-12 or wanted.max() > distances[-1] + 1e-12:
        raise ValueError(
            f"the settings span KL {distances[0]:g} to {distances[-1]:g}, not {wanted.min():g} to {wanted.max():g}"
        )
    return np.interp(wanted, distances, values)


def mean_difference(
    ours: tuple[Sequence[float], Sequence[float]], others: tuple[Sequence[float], Sequence[float]]
) -> float:
    """The mean of (our reward − theirs) over KL from the larger start to the smaller end of the two curves.

    Each side is (KL, rewards) as in ``at_kl``. Raises ``ValueError`` where the two share no KL.
    """
    low = max(min(ours[0]), min(others[0]))
    high = min(max(ours[0]), max(others[0]))
    if high < low:
        raise ValueError(f"no common KL: one ends at {high:g}, the other begins at {low:g}")
    wanted = np.linspace(low, high, STEPS)
    return float((at_kl(*ours, wanted) - at_kl(*others, wanted)).mean())
