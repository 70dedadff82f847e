"""Stages: in order, side by side, never twice, and loud where one fails."""

import time
from pathlib import Path

import pytest

from arm_models.errors import UserError
from server.comparison.stages import Runner, Stage, chained

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
    first = [stage("u", file, seconds=0.4, alone=True), stage("v", file)]
    Runner(tmp_path / "first", jobs=3).run(first)
    assert file.read_text().split()[-2:] == ["u", "v"]


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


def test_what_others_left_is_removed_and_what_is_its_own_is_gone_on_with(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "others").touch()
    fails = f"open({str(made)!r} + '/part', 'a').write('x'); raise SystemExit(1)"
    make = ("-S", "-c", f"import os; os.makedirs({str(made)!r}, exist_ok=True); {fails}")
    runner, resumed = Runner(tmp_path, jobs=1), Stage("m", make, output=made)
    for expected in ("x", "xx"):
        with pytest.raises(UserError):
            runner.run([resumed])
        assert (made / "part").read_text() == expected
        assert [file.name for file in made.iterdir()] == ["part"]
    for other in (Stage("m", make, output=made, inputs="new"), Stage("m", make, output=made, resumes=False)):
        with pytest.raises(UserError):
            runner.run([other])
        assert (made / "part").read_text() == "x"


def test_what_comes_after_a_stage_that_has_changed_is_done_again(tmp_path: Path) -> None:
    file = tmp_path / "said"

    def stages(inputs: str) -> list[Stage]:
        return chained([stage("a", file, inputs=inputs), stage("b", file, "a"), stage("c", file)])

    runner = Runner(tmp_path, jobs=1)
    runner.run(stages("old"))
    runner.run(stages("new"))
    assert file.read_text().split() == ["a", "b", "c", "a", "b"] or file.read_text().split() == [
        "a",
        "c",
        "b",
        "a",
        "b",
    ]
    with pytest.raises(KeyError):
        chained(stages("x")[1:])
