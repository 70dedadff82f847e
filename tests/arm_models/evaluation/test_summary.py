"""A sweep's rows, frontiers and curves from answers written by hand; what the reports make of them."""

import base64
import csv
import io
import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from arm_models.evaluation.answers import Answer, Cost
from arm_models.evaluation.equal_kl import advantage, at_equal_kl, curve_values
from arm_models.evaluation.measures.hypervolume import hypervolume
from arm_models.evaluation.report import data
from arm_models.evaluation.report.alpaca import alpaca
from arm_models.evaluation.report.figures import interval, number
from arm_models.evaluation.report.page import Section, page
from arm_models.evaluation.report.picture import frontier_picture, kl_picture
from arm_models.evaluation.report.table import cost_text, table
from arm_models.evaluation.settings import Setting
from arm_models.evaluation.summary import Row, by_method, frontier

PROMPTS = 20


def row(
    name: str,
    helpful: float,
    harmless: float,
    kl: float | None = 0.1,
    method: str = "genarm",
    preferences: dict[str, float] | None = None,
    verdicts: Sequence[float] = (),
) -> Row:
    """A setting whose prompts all score alike; harmless applies to every other prompt."""
    answers = [
        [Answer(name, number, 0, f"a b{number}", 10, None if kl is None else 10 * kl, "stop")]
        for number in range(PROMPTS)
    ]
    scores = {
        "helpful": [helpful] * PROMPTS,
        "harmless": [harmless if number % 2 else math.nan for number in range(PROMPTS)],
    }
    return Row(Setting(name, method, preferences), answers, scores, verdicts)


def test_a_row_says_what_was_measured() -> None:
    one = row("x", 0.25, 0.5, verdicts=[1.0, 0.5] * (PROMPTS // 2))
    assert one.intervals["helpful"].mean == 0.25
    assert one.intervals["harmless"].low == one.intervals["harmless"].high == 0.5
    assert one.kl is not None
    assert one.kl.mean == pytest.approx(0.1)
    assert one.tokens == 200
    assert one.distinct[0] == pytest.approx(21 / 40)
    assert one.win_rate is not None
    assert one.win_rate.mean == 0.75
    assert one.win_rate.low < 0.75 < one.win_rate.high
    assert row("y", 0.0, 0.0, kl=None).kl is None


def test_kl_is_over_tokens_not_over_answers() -> None:
    answers = [[Answer("x", 0, 0, "a", 1, 1.0, "stop")], [Answer("x", 1, 0, "a", 9, 0.0, "stop")]]
    one = Row(Setting("x"), answers, {"helpful": [0.0, 0.0]})
    assert one.kl is not None
    assert one.kl.mean == pytest.approx(0.1)


def test_a_frontier_has_the_volume_of_its_means_and_the_mip_of_its_preferences() -> None:
    rows = [
        row("a", 0.8, 0.2, preferences={"helpful": 1.0}),
        row("b", 0.4, 0.6, preferences={"helpful": 2.0, "harmless": 2.0}),
        row("c", 0.1, 0.9, preferences={"helpful": 1.0, "concise": 1.0}),
    ]
    one = frontier("genarm", rows, ["helpful", "harmless"], [0.0, 0.1])
    assert one.volume.mean == pytest.approx(
        hypervolume(np.array([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9]]), (0, 0.1))
    )
    assert one.mip == pytest.approx((0.8 + 0.5) / 2)
    assert by_method([*rows, row("d", 0, 0, method="mod")]).keys() == {"genarm", "mod"}


def test_methods_are_compared_at_the_kl_that_all_reach() -> None:
    base = row("base", 0.2, 0.5, kl=0.0)
    ours = [row("a", 0.6, 0.5, kl=0.2), row("b", 0.8, 0.5, kl=0.4)]
    others = [row("c", 0.4, 0.5, kl=0.8)]
    equal = at_equal_kl({"ours": ours, "others": others}, "helpful", base)
    assert equal is not None
    assert equal.kl == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert [one.mean for one in equal.rewards["ours"]] == pytest.approx([0.4, 0.6, 0.7, 0.8])
    assert [one.mean for one in equal.rewards["others"]] == pytest.approx([0.225, 0.25, 0.275, 0.3])
    ahead = advantage(curve_values([base, *ours], "helpful"), curve_values([base, *others], "helpful"))
    wanted = np.linspace(0, 0.4, 41)
    expected = np.interp(wanted, [0, 0.2, 0.4], [0.2, 0.6, 0.8]) - np.interp(wanted, [0, 0.8], [0.2, 0.4])
    assert ahead.mean == pytest.approx(expected.mean())
    assert ahead.low == pytest.approx(ahead.high)
    assert at_equal_kl({"ours": [row("a", 0, 0, kl=None)]}, "helpful", base) is None


def test_numbers_read_well() -> None:
    assert (number(-0.001), number(-1.5, 1), interval(None)) == ("0.00", "−1.5", "–")


def test_tables_json_and_csv_hold_every_setting() -> None:
    rows = [row("a", 0.8, 0.2, preferences={"helpful": 1.0}), row("b", 0.1, 0.3, kl=None)]
    lines = table(rows).splitlines()
    assert lines[0].startswith("| setting | helpful | harmless | KL/token | distinct-1 |")
    assert lines[2].startswith("| a | 0.80 [0.80, 0.80] | 0.20 [0.20, 0.20] | 0.100 [0.100, 0.100] |")
    assert "| – |" in lines[3]
    costs = [Cost(2.0, 2, 100, {"base": 50}, {"base": 300}), Cost(2.0, 2, 100, {"base": 30}, {"base": 100})]
    assert cost_text(costs) == (
        "4 answers, 200 tokens in 4.0 s: 50 tokens/s, 0.400 forwards and 2.00 computed tokens per answer token"
    )
    assert cost_text([]) == ""
    fronts = [frontier("genarm", rows, ["helpful", "harmless"], [0.0, 0.0])]
    written = json.loads(data.as_json(rows, fronts, costs, {"seed": 0}))
    assert written["rows"][0]["scores"]["helpful"]["mean"] == pytest.approx(0.8)
    assert written["rows"][1]["kl_per_token"] is None
    assert written["frontiers"][0]["hypervolume"]["mean"] == pytest.approx(0.8 * 0.2 + 0.1 * 0.1)
    lines_read = list(csv.DictReader(io.StringIO(data.as_csv(rows))))
    assert (lines_read[0]["setting"], lines_read[0]["helpful"], lines_read[1]["kl"]) == ("a", "0.8", "")
    assert json.loads(lines_read[0]["preferences"]) == {"helpful": 1.0}


def test_alpaca_evals_form_has_an_entry_for_every_answer() -> None:
    prompts = [({"role": "user", "content": f"q{number}"},) for number in range(PROMPTS)]
    entries = json.loads(alpaca([row("a", 0, 0), row("b", 0, 0)], prompts))
    assert len(entries) == 2 * PROMPTS
    assert entries[PROMPTS + 1] == {"instruction": "q1", "output": "a b1", "generator": "b"}


def test_pictures_are_png_and_lie_inside_the_page() -> None:
    series = {"genarm": [row("a", 0.8, 0.2), row("b", 0.3, 0.6)], "mod": [row("c", 0.5, 0.5, kl=None)]}
    pictures = {"f": frontier_picture(series, "helpful", "harmless"), "k": kl_picture(series, "helpful")}
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    written = page("T <b>", [Section("S", ["x & y"], (["h"], [["<i>"]]), pictures)])
    assert base64.b64encode(pictures["f"]).decode() in written
    assert "<title>T &lt;b&gt;</title>" in written
    assert "&lt;i&gt;" in written
    assert "http" not in written.replace("http-equiv", "")
