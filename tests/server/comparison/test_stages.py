"""Stages: in order, side by side, never twice, and loud where one fails."""

import time
from pathlib import Path

import pytest

from arm_models.errors import UserError
from server.comparison.stages import Runner, Stage

LINE = "import sys, time; time.sleep(float(sys.argv[2])); open(sys.argv[1], 'a').write(sys.argv[3] + '\\n')"


def stage(
    name: str, file: Path, *after: str, seconds: float = 0.0, alone: bool = False, inputs: str = ""
) -> Stage:
    """Writes its name into ``file`` after so long."""
    return Stage(name, ("-S", "-c", LINE, str(file), str(seconds), name), after, 10.0, alone, inputs)


def test_stages_run_after_what_they_need_and_once(tmp_path: Path) -> None:
    file, told = tmp_path / "said", []
    stages = [stage("c", file, "a", "b"), stage("a", file), stage("b", file, "a")]
    runner = Runner(tmp_path, jobs=2)
    assert runner.estimate(stages) == 15.0
    runner.run(stages, lambda one: told.append(one.name))
    assert file.read_text().split() == told == ["a", "b", "c"]
    runner.run(stages)
    assert Runner(tmp_path, jobs=2).estimate(stages) == 0.0
    changed = [stage("a", file, inputs="new")]
    assert not runner.is_done(changed[0])
    runner.run(changed)
    assert file.read_text().split() == ["a", "b", "c", "a"]
    assert runner.seconds(changed[0]) < 10
    with pytest.raises(KeyError):
        runner.seconds(stage("a", file))


def test_as_many_run_side_by_side_as_there_are_jobs_but_none_beside_one_that_is_timed(tmp_path: Path) -> None:
    file = tmp_path / "said"
    slow = [stage(name, file, seconds=0.5) for name in ("x", "y")]
    started = time.monotonic()
    Runner(tmp_path / "two", jobs=2).run(slow)
    assert time.monotonic() - started < 0.95
    timed = [stage("x", file, seconds=0.4), stage("t", file, alone=True), stage("y", file)]
    file.unlink()
    Runner(tmp_path / "timed", jobs=3).run(timed)
    assert file.read_text().split() == ["y", "x", "t"]


def test_one_that_fails_ends_the_others_and_says_where_its_log_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "said"
    stages = [
        Stage("bad", ("-S", "-c", "print('why'); raise SystemExit(3)")),
        stage("slow", file, seconds=30),
    ]
    runner = Runner(tmp_path, jobs=2)
    with pytest.raises(UserError, match=r"stage bad failed with code 3; its log is .*bad\.log"):
        runner.run(stages)
    assert "why" in capsys.readouterr().err
    assert not file.exists()
    assert not any(runner.is_done(one) for one in stages)


def test_what_a_stopped_run_left_of_a_fresh_folder_is_removed(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    Runner(tmp_path, jobs=1).run(
        [Stage("m", ("-S", "-c", f"import os; os.mkdir({str(made)!r})"), fresh=made)]
    )
    assert made.is_dir()
