"""Least squares in which nothing is negative: work that takes time, never gives any back."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def non_negative(matrix: Array, wanted: Array, tolerance: float = 1e-12) -> Array:
    """x ≥ 0 [columns] that makes |matrix · x − wanted| smallest; the algorithm of Lawson and Hanson (1974, chapter 23).

    Args:
        matrix: [rows, columns].
        wanted: [rows].
        tolerance: of a gradient, relative to the largest at x = 0, that counts as 0.

    Raises:
        ValueError: there are no rows, or their numbers differ.
    """
    if not len(matrix) or len(matrix) != len(wanted):
        raise ValueError(f"{len(matrix)} rows for {len(wanted)} values")
    columns = matrix.shape[1]
    solution = np.zeros(columns)
    passive = np.zeros(columns, dtype=bool)
    gradient = matrix.T @ wanted
    least = tolerance * max(1e-300, float(np.abs(gradient).max(initial=0.0)))
    for _ in range(10 * columns):
        candidates = ~passive & (gradient > least)
        if not candidates.any():
            break
        passive[int(np.argmax(np.where(candidates, gradient, -np.inf)))] = True
        solution, passive = _within(matrix, wanted, solution, passive)
        gradient = matrix.T @ (wanted - matrix @ solution)
    return solution


def _within(
    matrix: Array, wanted: Array, solution: Array, passive: NDArray[np.bool_]
) -> tuple[Array, NDArray[np.bool_]]:
    """Least squares over the ``passive`` columns; those that would become negative leave them, one after the other."""
    while True:
        trial = np.zeros_like(solution)
        trial[passive] = np.linalg.lstsq(matrix[:, passive], wanted, rcond=None)[0]
        negative = passive & (trial <= 0)
        if not negative.any():
            return trial, passive
        # As far towards the trial as nothing becomes negative.
        shares = solution[negative] / (solution[negative] - trial[negative])
        solution = solution + float(shares.min()) * (trial - solution)
        passive = passive & (solution > 1e-15)
        solution[~passive] = 0.0
        if not passive.any():
            return solution, passive
