"""Hypervolume: how much of the space above a reference point a set of reward vectors dominates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def pareto(points: Points) -> Points:
    """The rows of ``points`` [n, objectives] that no other row reaches or exceeds in everything, duplicates once.

    More is better. The order is that of the rows.
    """
    points = np.unique(points, axis=0)
    reaches = np.all(points[None] >= points[:, None], axis=-1)
    exceeds = np.any(np.greater(points[None], points[:, None]), axis=-1)
    best: Points = points[~np.any(reaches & exceeds, axis=1)]
    return best


def hypervolume(points: Points, reference: Sequence[float]) -> float:
    """The volume between ``reference`` and the frontier of ``points`` [n, 2 or 3] float64, exact; more is better.

    Points that do not exceed the reference in every objective add nothing. Raises ``ValueError`` for another number of
    objectives.
    """
    points = np.asarray(points, dtype=np.float64)
    corner = np.asarray(reference, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] not in (2, 3) or corner.shape != (points.shape[1],):
        raise ValueError(
            f"hypervolume needs points and a reference of 2 or 3 objectives, got {points.shape}, {corner.shape}"
        )
    above = points[(points > corner).all(1)] - corner
    if not len(above):
        return 0.0
    return _area(above) if above.shape[1] == 2 else _volume(above)


def _area(points: Points) -> float:
    """Of the union of the rectangles between the origin and each point: a sweep from the widest to the narrowest."""
    ordered = points[np.argsort(-points[:, 0], kind="stable")]
    height = np.maximum.accumulate(ordered[:, 1])
    rises = np.diff(height, prepend=0.0)
    return float((rises * ordered[:, 0]).sum())


def _volume(points: Points) -> float:
    """Of the union of the boxes: slabs between neighbouring heights, each as wide as what reaches it."""
    ordered = points[np.argsort(-points[:, 2], kind="stable")]
    heights = np.append(ordered[:, 2], 0.0)
    slabs = heights[:-1] - heights[1:]
    return float(sum(slab * _area(ordered[: count + 1, :2]) for count, slab in enumerate(slabs) if slab > 0))
