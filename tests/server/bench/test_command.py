"""`genarm bench` prints, keeps and draws what it measured, and goes on where it was stopped."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from server.bench import scenarios
from server.bench.command import ONLY
from server.bench.comparison import Comparison
from server.bench.findings import Finding
from server.bench.growth import Cell
from server.bench.result import Result
from server.bench.scenarios import SCENARIOS
from server.bench.scenarios.steps import StepTable
from server.bench.setup import Setup
from server.bench.table import table
from server.cli import main

TINY = ("--models", "tiny", "--requests", "3", "--runs", "1", "--quick")


def test_it_prints_writes_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, chart = tmp_path / "result.json", tmp_path / "chart.png"
    wanted = ("--only", "steps", "--only", "zero", "--output", str(file), "--chart", str(chart))
    assert main(["bench", *TINY, "--threads", "1", *wanted]) in (0, 1)
    kept = json.loads(file.read_text())
    first, steps, *growth = kept["results"]
    assert first["name"] == "weight 0"
    assert first["ratio"] == first["our_rates"][0] / first["peer_rates"][0]
    assert len(steps["cells"]) == 20
    assert [one["name"] for one in growth] == [
        f"growth with {axis}" for axis in ("batch", "context", "rewards")
    ]
    command = "genarm bench --models tiny --requests 3 --runs 1 --threads 1 --quick --only steps --only zero"
    assert kept["command"] == command
    printed = capsys.readouterr().out
    for text in ("weight 0", "engine steps", "growth with batch", "context 256", "3 lora", "1 torch threads"):
        assert text in printed
    assert sorted(tmp_path.iterdir()) == [chart, file]


def test_the_scenarios_that_can_be_chosen_are_those_there_are() -> None:
    assert tuple(SCENARIOS) == ONLY


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of the scenarios ran; "static" is stopped by its user, once, and "stream" misses its bar."""
    ran: list[str] = []

    def scenario(name: str, bar: float) -> Any:
        def measured(_setup: Setup) -> Result | Sequence[Result]:
            ran.append(name)
            if name == "static" and ran.count(name) == 1:
                raise KeyboardInterrupt
            result = Comparison(name, "ours", "peer", bar, (4.0,), (2.0,))
            return [result, result] if name == "zero" else result

        return measured

    bars = {"zero": 1.0, "static": 1.0, "stream": 3.0}
    stand_ins = {name: scenario(name, bar) for name, bar in bars.items()}
    monkeypatch.setattr(scenarios, "SCENARIOS", stand_ins)
    return ran


def test_a_stopped_run_goes_on_where_it_was(
    tmp_path: Path, calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    options = ["bench", *TINY, "--only", "zero", "--only", "static", "--output", str(file)]
    stop(options)
    assert [one["name"] for one in json.loads(file.read_text())["results"]] == ["zero", "zero"]
    assert main([*options, "--resume"]) == 0
    assert calls == ["zero", "static", "static"]
    assert [one["name"] for one in json.loads(file.read_text())["results"]] == ["zero", "zero", "static"]
    assert capsys.readouterr().out.count("\nzero ") == 2
    assert main(options) == 0  # without --resume all is measured again
    assert calls[3:] == ["zero", "static"]


def stop(options: list[str]) -> None:
    """Run a command that its user stops."""
    assert main(options) == 130


def test_a_missed_bar_is_told_by_word_and_exit_code(
    calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *TINY, "--only", "zero", "--only", "stream"]) == 1
    assert calls == ["zero", "stream"]
    ok, _, missed = capsys.readouterr().out.splitlines()[1:4]
    assert ok.endswith("≥ 1 ok")
    assert missed.endswith("≥ 3 MISSED")


def test_cells_are_a_line_for_each_row_and_a_column_for_each_context() -> None:
    cells = (Cell("full", 0, 1, 128, 0.001), Cell("full", 0, 1, 512, 0.0025), Cell("lora", 2, 8, 512, 0.1))
    lines = table([Finding.of("steps", StepTable(cells, 7))]).splitlines()
    assert "7 left out" in lines[1]
    assert [line.split() for line in lines[-2:]] == [
        ["none", "1", "1.0", "2.5"],
        ["2", "lora", "8", "–", "100.0"],
    ]


def test_a_server_that_could_not_start_is_told_before_measuring(
    monkeypatch: pytest.MonkeyPatch, calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("transformers.utils.import_utils.is_serve_available", lambda: False)
    assert main(["bench", *TINY, "--only", "zero", "--only", "transformers"]) == 2
    assert "pip install 'genarm[bench]'" in capsys.readouterr().err
    assert calls == []
    assert main(["bench", *TINY, "--only", "zero"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "huge"], "there is no 'huge'; there are demo, tiny, small, 1b, 7b"),
        (["--runs", "0"], "--runs must be at least 1"),
        (["--peer-requests", "0"], "--peer-requests must be at least 1"),
        (["--rate", "-1"], "--rate must be above 0"),
        (["--memory", "nan"], "--memory must be above 0"),
        (["--device", "cuda:99"], "device 'cuda:99' is not there"),
        (["--output", "/nowhere/x.json"], "the folder /nowhere does not exist"),
        (["--resume"], "--resume needs --output"),
        (["--chart", "x.pdf"], "--chart: x.pdf must end with .png or .svg"),
    ],
)
def test_misuse_is_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
