"""Sweeps, bars and reports on answers that are written by hand."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from arm_models.demo.world.conversations import held_out_conversations
from arm_models.demo.world.oracles import Scores
from arm_models.errors import UserError
from arm_models.evaluation.bars import bars
from arm_models.evaluation.generation import Prompt
from arm_models.evaluation.report.weights import bars_text, check_output, table, write
from arm_models.evaluation.sweep import Row, Sweep, demo_weights, sweep

Measure = Callable[[float, float, float, int], Scores]


def good(helpful: float, harmless: float, concise: float, index: int) -> Scores:
    """Scores that clear every bar: each weight moves its own score and nothing else."""
    level = 0.3 + (0.2 if index % 2 else 0.0)
    return Scores(
        helpful=min(1.0, level + 0.4 * helpful),
        harmless=float(index % 10 < 5 + 4 * harmless),
        concise=0.5,
        fluent=1.0,
        words=int(40 / (1 + concise)),
    )


def measured(scores: Measure, prompts: int = 100) -> Sweep:
    """A sweep over the demo's weights whose answers scored what ``scores`` says."""
    rows = []
    for weights in demo_weights():
        levels = [weights.get(name, 0.0) for name in ("helpful", "harmless", "concise")]
        each = tuple(scores(*levels, index) for index in range(prompts))
        rows.append(Row(weights, ("",) * prompts, each, (True,) * prompts))
    return Sweep(tuple(rows))


def test_models_that_do_what_they_should_clear_every_bar() -> None:
    assert [bar.holds for bar in bars(measured(good))] == [True] * 6


@dataclass(frozen=True)
class At:
    """One answer of the sweep: its scores if all were well, the weights, and its prompt's index."""

    well: Scores
    helpful: float
    harmless: float
    concise: float
    index: int


def worse(**changes: Callable[[At], float]) -> Measure:
    def scores(helpful: float, harmless: float, concise: float, index: int) -> Scores:
        at = At(good(helpful, harmless, concise, index), helpful, harmless, concise, index)
        return replace(at.well, **{name: change(at) for name, change in changes.items()})

    return scores


@pytest.mark.parametrize(
    ("broken", "bar"),
    [
        (worse(fluent=lambda at: float(at.index >= 4 or at.helpful + at.harmless + at.concise > 0)), 0),
        (worse(fluent=lambda at: float(at.index >= 8 or at.concise < 1)), 1),
        (worse(helpful=lambda at: 0.3 + 0.5 * (at.index % 2) + 0.1 * at.helpful), 2),
        (worse(harmless=lambda at: float(at.index % 10 < 5 + min(3.0, 4 * at.harmless))), 3),
        (worse(words=lambda at: int(40 - 5 * at.concise)), 4),
        (worse(helpful=lambda at: at.well.helpful - 0.5 * (at.helpful == at.harmless == 1.0)), 5),
    ],
)
def test_each_bar_fails_when_its_promise_is_broken(broken: Measure, bar: int) -> None:
    holds = [one.holds for one in bars(measured(broken))]
    assert not holds[bar]
    assert sum(holds) >= 5


def test_a_sweep_asks_every_prompt_under_every_weight_with_the_same_seeds() -> None:
    conversations = held_out_conversations(6, 0)
    asked: list[list[Prompt]] = []
    heard: list[None] = []

    def generate(prompts: Sequence[Prompt]) -> list[str]:
        asked.append(list(prompts))
        return ["Good luck."] * len(prompts)

    weights = ({}, {"helpful": 1.0})
    scored = sweep(generate, conversations, weights, seed=3, done=lambda: heard.append(None))
    assert len(heard) == 2
    assert [prompt.messages for prompt in asked[0]] == [one.messages for one in conversations]
    assert [prompt.seed for prompt in asked[0]] == [prompt.seed for prompt in asked[1]]
    assert len({prompt.seed for prompt in asked[0]}) == 6
    assert [dict(prompt.weights) for prompt in asked[1]] == [{"helpful": 1.0}] * 6
    assert scored.row(helpful=1.0).fluent == [1.0] * 6
    assert len(scored.base.harmless) == sum(one.question.risky for one in conversations if one.question)
    with pytest.raises(KeyError):
        scored.row(helpful=0.75)


def test_the_demo_table_holds_each_reward_alone_and_a_grid() -> None:
    rows = [dict(row) for row in demo_weights()]
    assert rows[0] == {}
    assert {"concise": 1.0} in rows
    assert {"helpful": 0.5, "harmless": 0.25} in rows
    assert len({tuple(sorted(row.items())) for row in rows}) == len(rows) == 1 + 9 + 9
    assert [dict(row) for row in demo_weights(("polite",))] == [
        {},
        *({"polite": weight} for weight in (0.25, 0.5, 1.0)),
    ]


def test_the_table_and_the_bars_are_readable() -> None:
    scored = measured(good)
    lines = table(scored).splitlines()
    assert lines[0] == "| weights | helpful | harmless (risky) | words | fluent |"
    assert lines[2].startswith("| base | 0.40 [0.38, 0.42] | 0.50 [0.40, 0.60] | 40.0 [40.0, 40.0] |")
    assert len(lines) == 2 + len(scored.rows)
    assert bars_text(bars(scored)).count("ok    ") == 6


def test_json_and_csv_hold_every_row(tmp_path: Path) -> None:
    scored = measured(good)
    write(scored, bars(scored), {"seed": 0}, tmp_path / "rows.json")
    written = json.loads((tmp_path / "rows.json").read_text())
    assert written["settings"] == {"seed": 0}
    assert len(written["rows"]) == len(scored.rows)
    assert written["rows"][0]["scores"]["helpful"]["mean"] == pytest.approx(0.4)
    assert len(written["bars"]) == 6
    write(scored, (), {}, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == len(scored.rows)
    assert (rows[0]["α helpful"], rows[0]["helpful"]) == ("0", "0.4")
    assert set(tmp_path.iterdir()) == {tmp_path / "rows.json", tmp_path / "rows.csv"}


@pytest.mark.parametrize("name", ["rows.txt", "rows", "missing/rows.json"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--output"):
        check_output(tmp_path / name)
