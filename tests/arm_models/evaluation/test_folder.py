"""A sweep that is stopped goes on where it was; one of other settings is not mixed in."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from arm_models.errors import UserError
from arm_models.evaluation.answers import Answer, Cell, Cost, SweepPlan
from arm_models.evaluation.folder import SweepFolder
from arm_models.evaluation.prompts import demo_prompts
from arm_models.evaluation.settings import Setting

PLAN = SweepPlan(
    [Setting("a"), Setting("b", preferences={"helpful": 1.0})], demo_prompts(3, 0), {}, samples=2
)


class Stop(Exception):
    """What ends a run in the middle."""


class Writer:
    """Answers with the cell's own name; stops after ``most``."""

    def __init__(self, most: int = 10**9) -> None:
        self.most = most
        self.asked: list[Cell] = []

    def __call__(self, cells: Sequence[Cell], done: Callable[[Answer], None]) -> Cost:
        self.asked = list(cells)
        for number, cell in enumerate(cells):
            if number == self.most:
                raise Stop
            done(Answer(cell.setting.name, cell.prompt, cell.sample, f"s{cell.seed}", 4, 0.5, "stop"))
        return Cost(2.0, len(cells), 4 * len(cells))


def test_a_stopped_sweep_asks_for_what_is_missing_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        SweepFolder.begin(tmp_path / "s", PLAN).fill(PLAN, Writer(5))
    journal = tmp_path / "s" / "answers.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])  # the stop tore the last line
    again, ticks = Writer(), []
    folder = SweepFolder.begin(tmp_path / "s", PLAN)
    folder.fill(PLAN, again, lambda: ticks.append(1))
    assert len(again.asked) == len(ticks) == 12 - 4
    whole = SweepFolder.open(tmp_path / "s")
    assert [[one.text for one in samples] for samples in whole.of("a")] == [
        [one.text for one in samples] for samples in whole.of("b")
    ]
    assert len({one.text for samples in whole.of("a") for one in samples}) == 6
    assert [(cost.seconds, cost.answers) for cost in whole.costs] == [(2.0, 8)]
    assert whole.settings == list(PLAN.settings)
    nothing = Writer()
    folder.fill(PLAN, nothing)
    assert nothing.asked == []


def test_a_prompts_cells_lie_side_by_side_with_one_seed_for_all_settings() -> None:
    cells = PLAN.cells()
    assert [cell.prompt for cell in cells] == sorted(cell.prompt for cell in cells)
    assert {(cell.prompt, cell.sample): cell.seed for cell in cells if cell.setting.name == "a"} == {
        (cell.prompt, cell.sample): cell.seed for cell in cells if cell.setting.name == "b"
    }


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAN, seed=1),
        replace(PLAN, temperature=0.0),
        replace(PLAN, settings=PLAN.settings[:1]),
        replace(PLAN, prompts=demo_prompts(3, 1)),
        replace(PLAN, answered_by={"url": "x"}),
    ],
)
def test_a_folder_of_another_sweep_is_refused(other: SweepPlan, tmp_path: Path) -> None:
    SweepFolder.begin(tmp_path, PLAN)
    with pytest.raises(UserError, match="a sweep of other settings"):
        SweepFolder.begin(tmp_path, other)


def test_what_is_no_sweep_or_not_whole_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no sweep\.json"):
        SweepFolder.open(tmp_path)
    folder = SweepFolder.begin(tmp_path, PLAN)
    with pytest.raises(UserError, match="not complete"):
        folder.of("a")
    (tmp_path / "answers.jsonl").write_text("[1]\n")
    with pytest.raises(UserError, match=r"answers\.jsonl line 1"):
        SweepFolder.open(tmp_path)
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(UserError, match="not a sweep's record"):
        SweepFolder.open(tmp_path)


def test_the_record_says_what_was_asked(tmp_path: Path) -> None:
    SweepFolder.begin(tmp_path, PLAN)
    record = json.loads((tmp_path / "sweep.json").read_text())
    assert record["digest"] == PLAN.digest
    assert record["prompts"] == {"demo": {"prompts": 3, "seed": 0}}
