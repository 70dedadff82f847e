"""Which process of a group this is follows from the environment, and nobody starts a group that was not declared."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import pytest

from arm_models.errors import UserError
from server import serve_command
from server.group.seat import LISTENING, Seat

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.7"}


def test_torchruns_variables_say_it() -> None:
    assert Seat.of(2, TORCHRUN) == Seat(1, 2, 1, "10.0.0.7")
    assert Seat.of(2, {**TORCHRUN, LISTENING: "5"}) == Seat(1, 2, 1, "10.0.0.7", 5)


@pytest.mark.parametrize(
    ("processes", "environment"), [(1, {}), (2, {}), (1, {"RANK": "0", "WORLD_SIZE": "1"})]
)
def test_a_process_on_its_own_has_none(processes: int, environment: Mapping[str, str]) -> None:
    assert Seat.of(processes, environment) is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"WORLD_SIZE": "3"}, r"3 processes were started \(WORLD_SIZE\), but base.tensor_parallel is 2"),
        ({"RANK": "2"}, "RANK in the environment is 2, but WORLD_SIZE is 2"),
        ({"LOCAL_RANK": "one"}, "must be whole numbers"),
    ],
)
def test_other_numbers_than_declared_are_refused(changed: Mapping[str, str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Seat.of(2, {**TORCHRUN, **changed})


def test_the_command_starts_as_many_processes_as_are_declared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "d.yaml"
    config.write_text("model: m\nbase: {model: org/b, tensor_parallel: 2}\nthreads: 3\n")
    started: list[object] = []
    monkeypatch.setattr(serve_command, "launch", lambda *given: started.append(given) or 7)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    parser = argparse.ArgumentParser()
    serve_command.add_arguments(parser)
    for flags, processes in (([], 2), (["--tensor-parallel", "4"], 4)):
        words = ["--config", str(config), *flags]
        args = parser.parse_args(words, argparse.Namespace(arguments=["serve", *words]))
        assert serve_command.run(args) == 7
        assert started.pop() == (["serve", *words], processes, 3)
