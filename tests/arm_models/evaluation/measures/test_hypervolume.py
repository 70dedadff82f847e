"""The exact hypervolume against counting cells, and against cases known by hand."""

from itertools import product

import numpy as np
import pytest

from arm_models.evaluation.measures.hypervolume import hypervolume, pareto


def counted(points: np.ndarray, reference: tuple[float, ...], edge: int) -> float:
    """On integer coordinates: the unit cells above the reference that some point covers."""
    cells = product(*(range(int(low), edge) for low in reference))
    return float(
        sum(any(all(p > c for p, c in zip(point, cell, strict=True)) for point in points) for cell in cells)
    )


@pytest.mark.parametrize("objectives", [2, 3])
def test_it_counts_every_dominated_cell_once(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    for _ in range(60):
        points = rng.integers(-2, 8, (int(rng.integers(1, 12)), objectives)).astype(float)
        reference = tuple(float(low) for low in rng.integers(-1, 2, objectives))
        assert hypervolume(points, reference) == counted(points, reference, 8)


def test_one_point_is_a_box_and_what_it_dominates_adds_nothing() -> None:
    point = np.array([[0.5, 0.75]])
    assert hypervolume(point, (0.0, 0.25)) == pytest.approx(0.25)
    assert hypervolume(np.vstack([point, [[0.25, 0.5]], point]), (0.0, 0.25)) == pytest.approx(0.25)
    assert hypervolume(np.array([[0.5, 0.25], [-1.0, 3.0]]), (0.0, 0.25)) == 0.0


def test_it_only_grows_with_more_points() -> None:
    rng = np.random.default_rng(9)
    points = rng.random((12, 3))
    volumes = [hypervolume(points[:count], (0.0, 0.0, 0.0)) for count in range(1, 13)]
    assert np.diff(volumes).min() >= -1e-12
    assert volumes[-1] == pytest.approx(hypervolume(pareto(points), (0.0, 0.0, 0.0)))


def test_the_frontier_holds_what_nothing_else_covers() -> None:
    points = np.array([[0.0, 2.0], [1.0, 1.0], [1.0, 1.0], [0.5, 0.5], [2.0, 0.0], [2.0, -1.0]])
    assert {tuple(row) for row in pareto(points)} == {(0.0, 2.0), (1.0, 1.0), (2.0, 0.0)}


@pytest.mark.parametrize("shape", [(3, 1), (3, 4), (3,)])
def test_other_numbers_of_objectives_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="2 or 3 objectives"):
        hypervolume(np.zeros(shape), (0.0,) * shape[-1])
