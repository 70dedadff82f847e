"""`genarm bench` measures both sides on the same work and says what it measured."""

import json
from pathlib import Path

import pytest

from server.bench.scenario import Comparison, compare
from server.bench.workload import Workload, output_tokens
from server.cli import main


def test_it_prints_and_writes_both_comparisons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    options = ["--models", "tiny", "--requests", "3", "--runs", "1", "--output", str(file)]
    assert main(["bench", *options]) in (0, 1)
    record = json.loads(file.read_text())
    assert [result["name"] for result in record["results"]] == ["weight 0", "guided batch"]
    for result in record["results"]:
        assert result["ratio"] == result["our_rates"][0] / result["peer_rates"][0]
    assert "weight 0" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [file]


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
    sides = [("ours", lambda: calls.append("ours")), ("peer", lambda: calls.append("peer"))]
    result = compare("turns", sides, 10, 2, 1.0, lambda: None)
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
