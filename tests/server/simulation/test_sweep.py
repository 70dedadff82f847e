"""Cells of a sweep: as loaded as they say; what is done stays; another measurement is not gone on from."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from arm_models.errors import UserError
from server.simulation.measured import Measured
from server.simulation.sweep import Capacity, Cell, Plan, Results, Simulations, cross, grid, middle
from server.simulation.traffic import TrafficSettings

SETTINGS = TrafficSettings(think="2", output="8-40", message="8-40", system_tokens=130, longest=600)


def plan(*cells: Cell, requests: int = 250, most: int = 10_000) -> Plan:
    return Plan(cells, SETTINGS, requests, most, 0)


def test_every_one_with_every_other() -> None:
    cells = grid((1, 2), ("least", "prefix"), (0.0, 1.0), (0.5,))
    assert len(cells) == len({cell.name for cell in cells}) == 8
    assert cells[0] == Cell(1, "least", 0.0, 0.5)


def test_a_cross_is_policies_in_the_middle_and_loads_under_the_last() -> None:
    cells = cross((2, 10), ("least", "two", "spill"), (0.0, 0.5, 1.0), (0.5, 0.8))
    assert len(cells) == len(set(cells)) == 2 * (3 + 3 * 2 - 1)
    assert {cell.policy for cell in cells if (cell.guided, cell.load) != (0.5, 0.8)} == {"spill"}
    assert {cell.policy for cell in cells if (cell.guided, cell.load) == (0.5, 0.8)} == {
        "least",
        "two",
        "spill",
    }
    assert {(cell.guided, cell.load) for cell in cells if cell.policy == "spill"} == {
        (guided, load) for guided in (0.0, 0.5, 1.0) for load in (0.5, 0.8)
    }
    assert {cell.policy for cell in cross((1,), ("two", "spill"), (0.5,), (0.5, 0.8))} == {"spill"}
    assert middle([3.0, 1.0, 1.0, 2.0]) == 2.0


def test_a_cell_has_requests_for_each_replica_up_to_the_most() -> None:
    cell = Cell(10, "least", 0.5, 0.5)
    assert plan(cell).turns(cell) == 2500
    assert plan(cell, most=300).turns(cell) == 300
    assert Plan((cell,), SETTINGS, 250, 10_000, 0, least=4000).turns(cell) == 4000


def test_a_cell_is_as_loaded_as_it_says(make_measured: Callable[..., Measured]) -> None:
    cell = Cell(2, "least", 0.5, 0.6)
    simulations = Simulations(make_measured(), plan(cell, requests=2000))
    outcome, capacity = simulations.run(cell), simulations.capacity(0.5)
    assert outcome.throughput == pytest.approx(0.6 * 2 * capacity.tokens, rel=0.1)
    assert outcome.refused == 0
    assert outcome.completed == len(outcome.records.arrived)


def test_guided_traffic_has_less_capacity(make_measured: Callable[..., Measured]) -> None:
    simulations = Simulations(make_measured(), plan())
    assert simulations.capacity(0.0).tokens > 1.2 * simulations.capacity(1.0).tokens


def test_a_stopped_sweep_goes_on(tmp_path: Path, make_measured: Callable[..., Measured]) -> None:
    path, about = tmp_path / "s.json", {"measured": "a", "seed": 0}
    cells = grid((1,), ("least",), (0.0, 1.0), (0.5,))
    simulations = Simulations(make_measured(), plan(*cells, requests=40))
    results = Results(path, about, "genarm simulate sweep")
    results.add(cells[0], Capacity(1.0, 2.0), simulations.run(cells[0]))
    again = Results(path, about, "genarm simulate sweep --guided 1")
    again.resume()
    assert again.cells == results.cells
    assert cells[1].name not in again.cells
    assert json.loads(path.read_text())["command"] == "genarm simulate sweep"
    again.add(cells[1], Capacity(1.0, 2.0), simulations.run(cells[1]))
    both = "genarm simulate sweep && genarm simulate sweep --guided 1"
    assert json.loads(path.read_text())["command"] == both
    once = Results(path, about, "genarm simulate sweep")
    once.resume()
    once.add(cells[0], Capacity(1.0, 2.0), simulations.run(cells[0]))
    assert json.loads(path.read_text())["command"] == both
    with pytest.raises(UserError, match="another measured"):
        Results(path, about | {"measured": "b"}).resume()


def test_what_is_no_sweep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    Results(path, {}).resume()  # not there yet
    path.write_text("[]")
    with pytest.raises(UserError, match="no file that genarm simulate wrote"):
        Results(path, {}).resume()
