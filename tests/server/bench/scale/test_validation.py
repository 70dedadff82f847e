"""The simulation beside real servers, of tiny models: every case is there with its runs. How close they are is for machines that
are idle: `genarm simulate validate`."""

from collections.abc import Callable

import pytest

from server.bench.scale.validation import BAR, Case, Question, parts, validate
from server.bench.setup import Setup
from server.bench.shapes import SHAPES
from server.simulation.cost import ClassCost, StepCost, StepSample
from server.simulation.limits import Limits
from server.simulation.load import MemberLoad
from server.simulation.measured import Measured, Work
from server.simulation.traffic import TrafficSettings

SETTINGS = TrafficSettings(
    turns="1-3", systems=2, system_tokens=140, message="3-20", output="4-12", think="0.02", longest=500
)


def case(simulated: float, *rates: float, barred: bool = True) -> Case:
    runs = [{"throughput": rate} for rate in rates]
    return Case(1, "never idle", "session", 10, {"throughput": simulated}, runs, barred)


def test_an_error_is_of_the_median_run_and_noise_is_the_span() -> None:
    found = case(110.0, 90.0, 100.0, 130.0)
    assert found.error == pytest.approx(0.1)
    assert found.noise == pytest.approx(0.4)
    assert case(110.0, 90.0).noise is None
    assert found.reached
    assert found.record()["bar"] == BAR


@pytest.mark.parametrize(
    ("simulated", "reached"), [(119.0, True), (121.0, False), (81.0, True), (79.0, False)]
)
def test_the_bar_holds_on_either_side(simulated: float, reached: bool) -> None:
    assert case(simulated, 100.0).reached is reached
    assert case(simulated, 100.0, barred=False).reached


def made_up() -> Measured:
    """Costs of no machine: requests have to be simulated, not well."""
    cost = ClassCost(0.003, 0.0001, 1e-8, 1e-9, 1e-8, (), (0.00005,))
    whole = StepCost(("base", "rewards", "rewards"), {"base": cost, "rewards": cost})
    samples = []
    for rows in range(1, 30):
        for readers in (1, 3):  # what the base takes by itself has to be told
            load = [MemberLoad(rows, rows, 64 * rows) if n < readers else MemberLoad() for n in range(3)]
            samples.append(StepSample(load, whole.seconds(load)))
    return Measured(
        {},
        ("base", "reward0", "reward1"),
        whole.classes,
        (0, 1, 1),
        Limits(64 * 60, max_sequences=4, max_queue=100),
        samples,
        samples,
        2,
        (1.0, 1.1),
        Work(1e-4, 1e-3),
        Work(1e-4, 1e-3),
        0.002,
    )


@pytest.mark.slow
def test_one_and_two_servers(make_setup: Callable[..., Setup], ticks: list[int]) -> None:
    question = Question(SETTINGS, "session", requests=12, runs=2)
    cases = validate(make_setup(), made_up(), SHAPES["tiny"][0].vocab, question)
    assert len(ticks) == parts(question)
    assert [(one.replicas, one.load, one.barred) for one in cases] == [
        (1, "never idle", True),
        (1, "0.7 of capacity", False),
        (2, "never idle", True),
        (2, "0.7 of capacity", False),
    ]
    for one in cases:
        assert len(one.runs) == 2
        assert one.throughput > 0
        for run in (one.simulated, *one.runs):
            assert run["completed"] == one.requests
            assert run["tokens"] == one.simulated["tokens"]
            assert run["refused"] == run["unsent"] == 0
