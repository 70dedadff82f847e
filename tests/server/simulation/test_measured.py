"""Measurements go to a file and back; what is no such file is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from arm_models.errors import UserError
from server.simulation.measured import Measured, read_measured


def test_to_a_file_and_back(tmp_path: Path, make_measured: Callable[..., Measured]) -> None:
    measured = make_measured()
    measured.write(tmp_path / "m.json")
    again = read_measured(tmp_path / "m.json")
    assert again.about == measured.about
    assert (again.members, again.classes, again.limits) == (
        measured.members,
        measured.classes,
        measured.limits,
    )
    assert [one.seconds for one in again.steps] == [one.seconds for one in measured.steps]
    assert again.cost().as_json() == measured.cost().as_json()
    assert again.errors() == measured.errors()
    assert (again.server, again.client, again.beside) == (measured.server, measured.client, measured.beside)
    assert again.central == measured.central


def test_a_machine_for_several_replicas_has_what_was_measured_of_it(
    make_measured: Callable[..., Measured],
) -> None:
    host = make_measured().host(2)
    assert (host.replicas, host.cores, host.beside) == (2, 2.0, (1.0, 1.2))
    assert host.token_seconds == pytest.approx(3e-4)
    assert host.arrival_seconds == 0.004
    assert make_measured().own_host().cores is None


@pytest.mark.parametrize("damage", ["missing", "torn", "other", "format", "steps", "limits"])
def test_what_is_no_such_file_is_refused(
    tmp_path: Path, make_measured: Callable[..., Measured], damage: str
) -> None:
    path = tmp_path / "m.json"
    if damage != "missing":
        make_measured().write(path)
        kept = json.loads(path.read_text())
        kept |= {
            "format": {"format": 99},
            "steps": {"steps": []},
            "limits": {"limits": {"kv_tokens": 1}},
        }.get(damage, {})
        path.write_text({"torn": path.read_text()[:50], "other": "[1]"}.get(damage, json.dumps(kept)))
    with pytest.raises(UserError, match=r"m\.json"):
        read_measured(path)
