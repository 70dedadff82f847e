"""Seconds of steps: what was put in comes out, nothing is negative, strays say little."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from server.simulation.cost import ClassCost, StepCost, StepSample, fit
from server.simulation.least_squares import non_negative
from server.simulation.load import MemberLoad

CLASSES = ("base", "rewards", "rewards")


def loads(count: int, seed: int) -> list[list[MemberLoad]]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        own = []
        for member in range(3):
            rows = int(rng.integers(0 if member else 1, 33))
            read = int(rng.choice([0, 0, 40, 128, 300]))
            attended = rows * int(rng.integers(1, 30)) * 64
            moved = int(rng.choice([0, 0, 64, 20_000]))
            own.append(MemberLoad(rows + read, rows, attended, read * int(rng.integers(1, 9)) * 64, moved))
        made.append(own)
    return made


def test_the_costs_that_made_the_steps_are_found(real_cost: StepCost) -> None:
    samples = [StepSample(load, real_cost.seconds(load)) for load in loads(600, 1)]
    found = fit(samples, CLASSES)
    others = [StepSample(load, real_cost.seconds(load)) for load in loads(200, 2)]
    errors = found.errors(others)
    assert errors.p95 < 0.01
    assert abs(errors.total) < 0.005
    assert errors.count == 200
    for name, part in itertools.product(("base", "rewards"), ("attended", "read", "moved")):
        assert getattr(found.costs[name], part) == pytest.approx(
            getattr(real_cost.costs[name], part), rel=0.05
        )


def test_what_caches_in_order_take_is_what_many_take_together(real_cost: StepCost) -> None:
    """Of two that write as much one takes far longer: both are told by their mean."""
    rng = np.random.default_rng(3)
    samples = []
    for load in loads(600, 4):
        moving = sum(own.moved * one for own, one in zip(load, (3e-6, 1e-6, 1e-6), strict=True))
        seconds = real_cost.seconds(load) * rng.uniform(0.95, 1.05) + moving * rng.choice([0, 0, 0, 8])
        samples.append(StepSample(load, seconds))
    found = fit(samples, CLASSES)
    assert found.costs["base"].moved == pytest.approx(3 * 3e-6, rel=0.3)
    assert abs(found.errors(samples).total) < 0.03
    still = [replace(sample, load=[replace(own, moved=0) for own in sample.load]) for sample in samples]
    errors = found.errors([StepSample(one.load, real_cost.seconds(one.load)) for one in still])
    assert errors.p95 < 0.15


def test_what_nothing_explains_makes_every_step_longer(real_cost: StepCost) -> None:
    rng = np.random.default_rng(3)
    samples = []
    for load in loads(600, 4):
        seconds = real_cost.seconds(load) * rng.uniform(0.95, 1.05)
        samples.append(StepSample(load, seconds * (20 if rng.random() < 0.04 else 1)))
    others = [StepSample(load, real_cost.seconds(load)) for load in loads(200, 5)]
    errors = fit(samples, CLASSES).errors(others)
    assert 0.04 * 19 * 0.5 < errors.total < 0.04 * 19 * 1.5


def test_nothing_takes_negative_time() -> None:
    samples = [StepSample(load, 0.01) for load in loads(100, 6)]
    found = fit(samples, CLASSES)
    for cost in found.costs.values():
        assert min(cost.running, cost.draws, cost.attended, cost.read, *cost.slopes) >= 0


def test_more_work_never_takes_less(real_cost: StepCost) -> None:
    rng = np.random.default_rng(7)
    found = fit(
        [StepSample(load, real_cost.seconds(load) * rng.uniform(0.5, 1.5)) for load in loads(200, 8)], CLASSES
    )
    for tokens, more in itertools.pairwise(range(1, 200, 7)):
        low, high = ([MemberLoad(n, n, 64 * n, 0), MemberLoad(), MemberLoad()] for n in (tokens, more))
        assert found.seconds(low) <= found.seconds(high)
    alone = [MemberLoad(8, 8, 512, 0), MemberLoad(), MemberLoad()]
    guided = [MemberLoad(8, 8, 512, 0), MemberLoad(4, 4, 256, 0), MemberLoad()]
    assert found.seconds(alone) <= found.seconds(guided)


def test_a_member_that_does_nothing_costs_nothing(real_cost: StepCost) -> None:
    assert real_cost.seconds([MemberLoad(), MemberLoad(), MemberLoad()]) == 0
    load = [MemberLoad(1, 1, 64, 0), MemberLoad(), MemberLoad()]
    assert real_cost.seconds(load) == pytest.approx(0.010 + 0.0002 + 0.0004 + 64 * 2e-6)
    # Slabs are put in order for prompts that go, too: nobody has to run for that.
    assert real_cost.seconds([MemberLoad(), MemberLoad(moved=100), MemberLoad()]) == pytest.approx(100 * 1e-6)


def test_a_line_with_knees() -> None:
    cost = ClassCost(0.0, 0.0, 0.0, 0.0, 0.0, (4, 10), (1.0, 0.0, 2.0))
    assert [cost.tokens(count) for count in (0, 3, 4, 10, 12)] == [0, 3, 4, 4, 8]


def test_what_was_never_measured_is_said() -> None:
    load = [MemberLoad(1, 1, 64, 0), MemberLoad(), MemberLoad()]
    with pytest.raises(ValueError, match="'rewards'"):
        fit([StepSample(load, 0.1)], CLASSES)
    with pytest.raises(ValueError, match="took no time"):
        fit([StepSample(load, 0.0)], ("base", "base", "base"))
    found = fit([StepSample(load, 0.1)], ("base", "base", "base"))
    assert not found.beyond(load)
    assert found.beyond([MemberLoad(2, 1, 64, 0), MemberLoad(), MemberLoad()])


def test_a_slower_machine_is_slower_in_everything(real_cost: StepCost) -> None:
    slow = real_cost.scaled(3.0)
    for load in loads(20, 9):
        assert slow.seconds(load) == pytest.approx(3 * real_cost.seconds(load))


@pytest.mark.parametrize("seed", range(5))
def test_least_squares_without_negatives_is_the_best_of_all_subsets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix, wanted = rng.normal(size=(30, 5)), rng.normal(size=30)
    found = non_negative(matrix, wanted)
    assert found.min() >= 0
    best = min(float(np.linalg.norm(matrix @ candidate - wanted)) for candidate in _subsets(matrix, wanted))
    assert float(np.linalg.norm(matrix @ found - wanted)) == pytest.approx(best)


def _subsets(matrix: np.ndarray, wanted: np.ndarray) -> list[np.ndarray]:
    """Every solution over some of the columns that has nothing negative."""
    solutions = [np.zeros(matrix.shape[1])]
    for size in range(1, matrix.shape[1] + 1):
        for chosen in itertools.combinations(range(matrix.shape[1]), size):
            solution = np.zeros(matrix.shape[1])
            solution[list(chosen)] = np.linalg.lstsq(matrix[:, chosen], wanted, rcond=None)[0]
            if solution.min() >= 0:
                solutions.append(solution)
    return solutions


def test_no_rows_are_no_problem_to_solve() -> None:
    with pytest.raises(ValueError, match="0 rows"):
        non_negative(np.zeros((0, 2)), np.zeros(0))
