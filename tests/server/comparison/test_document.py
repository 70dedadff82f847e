"""The comparison from its answers on: rows, claims and the document, on answers that the world itself writes."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import pytest

from arm_models.demo.world.answers import answer
from arm_models.demo.world.oracles import helpful
from arm_models.evaluation.answers import Answer, Cell, Cost, SweepPlan
from arm_models.evaluation.bootstrap import Interval
from arm_models.evaluation.folder import SweepFolder
from arm_models.evaluation.prompts import demo_prompts
from arm_models.evaluation.settings import read_settings
from server.cli import main
from server.comparison import claims as checks
from server.comparison.claims import FAILS, REPRODUCES, UNDECIDED, Claim
from server.comparison.document import write
from server.comparison.models import Models
from server.comparison.plan import quick_plan
from server.comparison.results import Results, curves_of, mean
from server.comparison.sweeps import Sweeps
from server.config import read_config_file, read_deployment
from server.evaluation.engine_answers import guidance_of

PROMPTS = 40


class World:
    """Answers as a method of some strength would: the most helpful of several that the world writes."""

    def __init__(self, strength: Callable[[Cell], int]) -> None:
        self.strength = strength
        self.conversations = demo_prompts(PROMPTS, 2024).conversations

    def __call__(self, cells: Sequence[Cell], done: Callable[[Answer], None]) -> Cost:
        assert self.conversations is not None
        for cell in cells:
            question = self.conversations[cell.prompt].question
            assert question is not None
            rng, tries = Random(cell.seed), self.strength(cell)
            text = max((answer(question, rng) for _ in range(tries)), key=lambda one: helpful(question, one))
            kl = 0.2 * 20 * (tries - 1)
            done(Answer(cell.setting.name, cell.prompt, cell.sample, text, 20, kl, "stop", 20 * tries))
        return Cost(1.0, len(cells), 20 * len(cells), {"base": 5}, {"base": 50})


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Sweeps:
    plan = replace(quick_plan(), prompts=PROMPTS, transfer_prompts=PROMPTS, candidates=(2, 6))
    return Sweeps(Models(plan, tmp_path_factory.mktemp("comparison")))


def strength(cell: Cell) -> int:
    """GenARM and DPO are the strongest, ARGS is no better than its base."""
    method, weights = cell.setting.method, (cell.setting.preferences or {}).values()
    if method == "best_of_n":
        return int(cell.setting.parameters["n_candidates"])
    if method in ("genarm", "dera"):
        weight = max([*weights, float(cell.setting.parameters.get("lambda", 0.0))])
        most = 2 if "helpful-small-arm" in (cell.setting.preferences or {}) else 3
        return 1 + round(most * min(weight, 1.0))
    return {"args": 1, "pargs": 4, "transfer_q": 2, "darwin": 2}.get(method, 1)


@pytest.fixture(scope="module")
def results(sweeps: Sweeps) -> Results:
    for sweep in sweeps.all:
        prompts = demo_prompts(min(sweep.prompts, PROMPTS), 2024)
        plan = SweepPlan(sweep.settings, prompts, {"sweep": sweep.name})
        SweepFolder.begin(sweeps.path(sweep.name), plan).fill(plan, World(strength))
    for kind, seconds in (("together", 1.0), ("single", 4.0)):
        cost = asdict(Cost(seconds, 2, 40, {"base": 5}, {"base": 50}))
        file = sweeps.models.folder / f"cost-{kind}.json"
        file.write_text(json.dumps(dict.fromkeys(sweeps.cost_settings(), cost)))
    return Results(sweeps)


def test_every_setting_means_something_to_its_deployment(sweeps: Sweeps) -> None:
    for sweep in sweeps.all:
        deployment = read_deployment(sweep.deployment, sweep.name)
        for setting in sweep.settings:
            guidance_of(setting, deployment)
    for stage in sweeps.stages()[-2:]:
        config, listed = map(Path, stage.arguments[2:4])
        for setting in read_settings(listed):
            guidance_of(setting, read_deployment(read_config_file(config), "cost"))


def test_every_sweep_comes_after_what_makes_its_models(sweeps: Sweeps) -> None:
    made = {stage.name for stage in sweeps.models.stages()}
    for sweep, stage in zip(sweeps.all, sweeps.stages(), strict=False):
        assert made.issuperset(stage.after), sweep.name
        models = [
            entry["model"] for role in ("rewards", "policies", "scorers") for entry in sweep.deployment[role]
        ]
        names = {Path(model).name for model in models}
        assert {
            name for name in names if not any(one.endswith(name.removeprefix("soup-")) for one in stage.after)
        } == set()


@pytest.fixture(scope="module")
def found(results: Results, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Claim], Path]:
    """The claims, and where they are written."""
    about = {"command": "genarm compare", "machine": "a machine", "notes": ["It took long."], "seconds": {}}
    out = tmp_path_factory.mktemp("written")
    return write(results, out / "docs", out / "records", about), out


def test_claims_say_what_the_answers_show(results: Results, found: tuple[list[Claim], Path]) -> None:
    by = {one.statement: one for one in found[0]}
    assert by["GenARM beats ARGS at equal KL"].verdict in (REPRODUCES, UNDECIDED)
    assert by["DeRa at λ = 2 matches DPO retrained at β/λ = 0.05"].verdict == REPRODUCES
    assert by["DeRa at λ = 2 matches DPO retrained at β/λ = 0.05"].value.mean == 0.0
    strong = by[
        "A small ARM guiding a base more than 4 times its size recovers at least 70 % of the gap to DPO"
    ]
    base, ours, policy = (
        mean(results.curves[name], "helpful")
        for name in ("base", results.chosen[checks.SMALL], "dera policy=helpful-dpo lambda=1.0")
    )
    assert base < ours < policy
    assert strong.value.mean == pytest.approx((ours - base) / (policy - base))
    assert by["GenARM with an ARM of the base's size is as good as DPO"].verdict == REPRODUCES
    assert len(by) == 8


def test_an_interval_decides_or_does_not() -> None:
    assert checks._verdict(Interval(0.1, 0.05, 0.2), 0.0) == REPRODUCES
    assert checks._verdict(Interval(-0.1, -0.2, -0.05), 0.0) == FAILS
    assert checks._verdict(Interval(0.0, -0.1, 0.1), 0.0) == UNDECIDED
    assert checks._verdict(Interval(0.0, -0.01, 0.1), -0.02) == REPRODUCES


def test_darwin_is_compared_with_best_of_n_at_its_own_tokens(
    results: Results, found: tuple[list[Claim], Path]
) -> None:
    (claim,) = (one for one in found[0] if one.statement.startswith("DARWIN"))
    darwin, best = results.rows("darwin"), results.rows("best-of-n")
    two = next(row for row in best.values() if row.setting.parameters["n_candidates"] == 2)
    (only,) = darwin.values()
    assert checks.generated(only) == 40.0
    gap = sum(only.scores["helpful"]) / PROMPTS - sum(two.scores["helpful"]) / PROMPTS
    assert claim.value.mean == pytest.approx(gap)


def test_seeds_are_samples_of_one_prompt(results: Results) -> None:
    row = results.curves["base"]
    assert len(row.answers[0]) == len(results.sweeps.plan.seeds)
    assert curves_of(results.curves).keys() == {
        "genarm helpful-arm",
        "genarm helpful-small-arm",
        "dera helpful-dpo",
        "args helpful-small-bt",
        "pargs helpful-small-prefix",
    }


def test_the_document_and_its_records_are_written_whole(
    results: Results, found: tuple[list[Claim], Path]
) -> None:
    made, out = found
    text = (out / "docs" / "evaluation.md").read_text()
    for claim in made:
        assert f"| {claim.statement} | {claim.measured} | **{claim.verdict}** |" in text
    for picture in ("evaluation-kl.png", "evaluation-frontier.png"):
        assert f"({picture})" in text
        assert (out / "docs" / picture).read_bytes().startswith(b"\x89PNG")
    assert "| genarm-two | 25.00 | 0.12 | 1.2 | 100.00 |" in text
    assert [
        line.split(" | ")[:2] for line in text.splitlines() if line.startswith(("| TR-DPO", "| proxy-tuning"))
    ] == [
        ["| TR-DPO", "1"],
        ["| proxy-tuning, small", "0.5"],
        ["| proxy-tuning, small", "1"],
    ]
    assert "nan" not in text
    records = json.loads((out / "records" / "rows.json").read_text())
    assert len(records["rows"]["curves"]) == len(results.curves)
    assert not math.isnan(
        json.loads((out / "records" / "claims.json").read_text())["claims"][0]["value"]["mean"]
    )


def test_the_plan_is_printed_without_running(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--quick", "--plan", "--work", str(tmp_path), "--jobs", "2"]) == 0
    printed = capsys.readouterr().out
    assert "train-0-helpful-arm" in printed
    assert "minutes left with 2 jobs" in printed
    assert not list((tmp_path / "logs").iterdir())
    assert main(["compare", "--jobs", "0"]) == 2
