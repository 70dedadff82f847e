"""A stopped run goes on from its file, and only from its own."""

import json
from pathlib import Path
from typing import Any

import pytest

from arm_models.errors import UserError
from server.bench.comparison import Comparison
from server.bench.findings import Findings

ABOUT = {"command": "genarm bench", "settings": {"models": "tiny", "runs": 5}}
GOOD = Comparison("x", "ours", "peer", 1.0, (4.0,), (2.0,))
BAD = Comparison("y", "ours", "peer", 3.0, (4.0,), (2.0,))


def kept(path: Path) -> Any:
    return json.loads(path.read_text())


def test_what_is_finished_is_kept_at_once_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    first = Findings(path, ABOUT)
    first.add("one", [GOOD, BAD])
    assert [result["name"] for result in kept(path)["results"]] == ["x", "y"]
    again = Findings(path, ABOUT)
    again.resume()
    assert again.has("one")
    assert not again.has("two")
    assert again.all == json_like(first.all)
    assert [finding.reached for finding in again.all] == [True, False]
    again.add("two", [GOOD])
    assert [result["scenario"] for result in kept(path)["results"]] == ["one", "one", "two"]
    assert list(tmp_path.iterdir()) == [path]
    assert [finding.scenario for finding in again.of(["two", "one"])] == ["two", "one", "one"]


def json_like(findings: list[Any]) -> list[Any]:
    """JSON knows lists only."""
    return [type(one).from_json(json.loads(json.dumps(one.as_json()))) for one in findings]


def test_nothing_there_is_a_beginning(tmp_path: Path) -> None:
    findings = Findings(tmp_path / "none.json", ABOUT)
    findings.resume()
    assert findings.all == []


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    Findings(path, {"settings": {"models": "tiny", "runs": 3}}).add("one", [GOOD])
    with pytest.raises(UserError, match="was measured with runs 3, not 5"):
        Findings(path, ABOUT).resume()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": {}, "results": [{}]}'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "found.json"
    path.write_text(text)
    with pytest.raises(UserError, match="no file that genarm bench wrote"):
        Findings(path, ABOUT).resume()
