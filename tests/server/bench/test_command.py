"""`genarm bench` measures both sides on the same work and says what it measured."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from server.bench.command import ONLY
from server.bench.comparison import Comparison, Side, compare
from server.bench.scenarios import SCENARIOS
from server.bench.scenarios.reports import without_reports
from server.bench.scenarios.steering import Lag
from server.bench.setup import Setup
from server.bench.shapes import model_sources
from server.bench.workload import Workload, output_tokens
from server.cli import main
from server.engine import TokenOutput


def test_it_prints_and_writes_every_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    options = ["--models", "tiny", "--requests", "3", "--runs", "1", "--output", str(file)]
    assert main(["bench", *options]) in (0, 1)
    results = {result["name"]: result for result in json.loads(file.read_text())["results"]}
    assert list(results) == [
        "weight 0",
        "guided batch",
        "static batches",
        "one stream",
        "over HTTP",
        "sweep",
        "report unasked",
        "report asked",
        "same system prompt",
        "steering",
    ]
    lags = results.pop("steering")["lags"]
    assert len(lags) == 3
    assert all(0 <= lag < 20 for lag in lags)
    for result in results.values():
        assert result["ratio"] == result["our_rates"][0] / result["peer_rates"][0]
    assert "weight 0" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [file]


def test_the_scenarios_that_can_be_chosen_are_those_there_are() -> None:
    assert tuple(SCENARIOS) == ONLY


def test_a_lag_is_as_long_as_the_longest() -> None:
    assert Lag("x", 2, (0, 1, 2), 2).reached
    late = Lag("x", 2, (0, 1, 3), 2)
    assert not late.reached
    assert late.row().value == "3 steps"


def test_what_a_report_is_compared_with_cannot_report(tmp_path: Path) -> None:
    workload = Workload(requests=1, prompt=(4, 4), response=(8, 8))
    setup = Setup(model_sources("tiny", 1, tmp_path), workload, 1, lambda: None)
    engine = setup.engine()
    (request,) = workload.build(50, setup.rewards, guided=True)
    engine.add(replace(request, report=True))
    outputs: list[TokenOutput] = []
    without_reports(lambda: outputs.extend(engine.step()))
    outputs += engine.step()
    assert [output.report is None for output in outputs] == [True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "huge"], "there is no 'huge'; there are demo, tiny, small"),
        (["--runs", "0"], "--runs must be at least 1"),
        (["--output", "/nowhere/x.json"], "the folder /nowhere does not exist"),
    ],
)
def test_misuse_is_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_both_sides_run_equally_often_and_take_turns_at_going_first() -> None:
    calls: list[str] = []
    ours = Side("ours", lambda: calls.append("ours"), 10)
    peer = Side("peer", lambda: calls.append("peer"), 10)
    result = compare("turns", ours, peer, 2, 1.0, lambda: None)
    assert calls == ["ours", "peer", "ours", "peer", "peer", "ours"]
    assert len(result.our_rates) == len(result.peer_rates) == 2


def test_the_ratio_is_of_medians() -> None:
    result = Comparison("x", "ours", "peer", 1.0, (10.0, 30.0, 20.0), (5.0, 4.0, 100.0))
    assert result.ratio == 4.0
    assert result.spread == (0.2, 7.5)


def test_a_workload_is_ragged_and_the_same_every_time() -> None:
    workload = Workload(requests=50)
    requests = workload.build(100, ["a"], guided=True)
    assert requests == workload.build(100, ["a"], guided=True)
    assert len({len(request.prompts["base"]) for request in requests}) > 20
    assert len({request.mix["a"] for request in requests}) > 20
    assert output_tokens(requests) == output_tokens(workload.build(100, [], guided=False))
