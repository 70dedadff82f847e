"""docs/evaluation.md with its pictures, and the same as JSON: everything in it is computed here from the answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from arm_models.evaluation.answers import Cost
from arm_models.evaluation.equal_kl import EqualKl, at_equal_kl
from arm_models.evaluation.report.figures import interval, markdown, number
from arm_models.evaluation.report.picture import frontier_picture, kl_picture
from arm_models.evaluation.summary import Frontier, Row, frontier
from arm_models.whole_file import write_whole
from server.comparison.claims import (
    ARGS,
    DPO,
    GENARM,
    PARGS,
    REFERENCE,
    SMALL,
    Claim,
    claims,
    frontiers,
    generated,
)
from server.comparison.plan import Plan
from server.comparison.results import Results, curves_of
from server.comparison.sweeps import COSTS, HARMLESS, HELPFUL

LABELS = {
    GENARM: "GenARM, ARM of the base's size",
    SMALL: "GenARM, small ARM",
    DPO: "DPO, and DeRa over λ",
    ARGS: "ARGS, small scorer",
    PARGS: "PARGS, small scorer",
}
"""What the curves are called; the first five lines of the document's tables."""


def write(results: Results, docs: Path, records: Path, about: Mapping[str, Any]) -> list[Claim]:
    """Write ``docs/evaluation.md`` and its PNGs, and JSON into ``records``; the claims, for who wants to print them.

    ``about``: what is said of the run: command, machine, minutes.
    """
    found = claims(results)
    fronts = _frontiers(results)
    equal = _equal_kl(results)
    for name, picture in _pictures(results).items():
        write_whole(docs / name, picture)
    costs = _costs(results)
    write_whole(docs / "evaluation.md", _document(results, found, fronts, equal, costs, about))
    write_whole(
        records / "claims.json", _json({"about": dict(about), "claims": [asdict(one) for one in found]})
    )
    write_whole(records / "rows.json", _json(_records(results, fronts, costs)))
    return found


def _document(
    results: Results,
    found: Sequence[Claim],
    fronts: Sequence[Frontier],
    equal: EqualKl | None,
    costs: Mapping[str, tuple[Cost, Cost]],
    about: Mapping[str, Any],
) -> str:
    plan = results.sweeps.plan
    parts = [
        "# The family of methods, measured against each other",
        f"Written by `{about['command']}`; do not edit. {about['machine']}.",
        _summary(plan),
        "## What reproduces",
        markdown(
            ["claim", "measured", "here"],
            [[one.statement, one.measured, f"**{one.verdict}**"] for one in found],
        ),
        "\n".join(f"- {one.statement}: {'; '.join(one.details)}." for one in found if one.details),
        "## One objective: helpful",
        _curve_text(plan),
        _chosen_table(results),
        "![helpful against KL](evaluation-kl.png)",
        *_equal_text(equal),
        "Two more of the family, first seed: TR-DPO, whose reference follows the policy, and proxy-tuning by a small model "
        "trained by DPO (the expert) and the small start model (the anti-expert).",
        _relatives_table(results),
        "## Two objectives: helpful and harmless",
        f"{plan.simplex} settings each, from all harmless to all helpful. GenARM weights its two ARMs with α and 1 − α, MOD its "
        "two policies, Rewarded Soups average the policies' weights, PARM is one ARM that is given the vector. Hypervolume above "
        f"{REFERENCE}, exact; MIP over the vectors with Σ = 1 where a method is given one.",
        _frontier_table(fronts),
        "![helpful against harmless](evaluation-frontier.png)",
        "## Search",
        _search_text(plan),
        _search_table(results),
        "## What an answer token costs",
        f"Each method by itself, one thread: {plan.cost_prompts} prompts side by side, and {plan.cost_single} one after the "
        "other. Forwards: passes of any member, per token of the answer; side by side many answers share one. Computed: tokens "
        "that all members computed, prompts among them, per token of the answer. Forwards and computed tokens hardly change from "
        "run to run; times do, by up to a half one after the other, on a machine that others use.",
        _cost_table(costs),
        "## How it was made",
        *_how(plan, about),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(plan: Plan) -> str:
    return (
        f"The demo world ([demo.md](demo.md)): {plan.prompts} held-out prompts on which no weight was chosen (seed "
        f"{plan.prompt_seed}; two settings were changed after a look at them, see the end), "
        f"temperature 1, {len(plan.seeds)} training seeds. Rewards are the world's oracles: `helpful` on all prompts, "
        "`harmless` on "
        "the risky ones, both from 0 to 1. Brackets are 95 % bootstrap intervals over prompts; where seeds are pooled, a "
        "prompt's "
        "value is the mean over them. KL is KL(guided‖base) in nats, summed over all tokens and divided by their number. "
        "These are "
        "models of 1 and 4 million parameters in a made world: what holds here need not hold elsewhere, nor the other way round."
    )


def _curve_text(plan: Plan) -> str:
    return (
        "Every method at the weight with the most helpful answers to "
        f"{plan.validation} other prompts (seed {plan.validation_seed}), all training seeds together. "
        "ARGS, PARGS and the small ARM start from one small model and learn from the same pairs."
    )


def _chosen_table(results: Results) -> str:
    rows = {"base": results.curves["base"]}
    rows |= {LABELS[curve]: results.curves[name] for curve, name in results.chosen.items()}
    return _rows_table((label, "–" if label == "base" else _weight(row), row) for label, row in rows.items())


def _relatives_table(results: Results) -> str:
    labels = {"dera": "TR-DPO", "proxy": "proxy-tuning, small"}
    rows = results.rows("relatives").values()
    return _rows_table((labels[row.setting.method], _weight(row), row) for row in rows)


def _rows_table(rows: Iterable[tuple[str, str, Row]]) -> str:
    """A line for each (label, weight, row)."""
    cells = [
        [
            label,
            weight,
            *(interval(row.intervals.get(name)) for name in (HELPFUL, HARMLESS, "fluent")),
            interval(row.intervals.get("words"), 1),
            interval(row.kl, 3),
            number(row.distinct[1]),
        ]
        for label, weight, row in rows
    ]
    return markdown(
        ["method", "weight", HELPFUL, HARMLESS, "fluent", "words", "KL/token", "distinct-2"], cells
    )


def _weight(row: Row) -> str:
    weights = (row.setting.preferences or {}).values() or [float(row.setting.parameters["lambda"])]
    return ", ".join(f"{weight:g}" for weight in weights)


def _equal_kl(results: Results) -> EqualKl | None:
    curves = curves_of(results.curves)
    return at_equal_kl({LABELS[name]: curves[name] for name in LABELS}, HELPFUL, results.curves["base"])


def _equal_text(equal: EqualKl | None) -> list[str]:
    if equal is None:
        return ["No KL is common to all methods."]
    header = ["helpful at KL/token", *(number(kl, 3) for kl in equal.kl)]
    rows = [[name, *(interval(value) for value in values)] for name, values in equal.rewards.items()]
    told = "At equal KL, on straight lines between a method's settings, at quarters of what all reach:"
    return [told, markdown(header, rows)]


def _frontiers(results: Results) -> list[Frontier]:
    return [
        frontier(label, rows, (HELPFUL, HARMLESS), REFERENCE)
        for label, rows in frontiers(results).items()
        if rows
    ]


def _frontier_table(fronts: Sequence[Frontier]) -> str:
    header = ["method", "hypervolume", "most helpful", "most harmless", "MIP"]
    rows = []
    for one in fronts:
        best = [
            max((row.intervals[name] for row in one.rows), key=lambda value: value.mean)
            for name in (HELPFUL, HARMLESS)
        ]
        mip = "–" if one.mip is None else number(one.mip, 3)
        rows.append([one.method, interval(one.volume, 3), *(interval(value) for value in best), mip])
    return markdown(header, rows)


def _search_text(plan: Plan) -> str:
    return (
        "First training seed, responses drawn from the base, scored by the scorer of ARGS (Transfer-Q*: rollouts by the "
        "DPO policy). "
        f"DARWIN: {_told(plan.darwin)}. Transfer-Q*: {_told(plan.transfer)}, {plan.transfer_prompts} prompts. "
        "Drawn: tokens that were drawn for an answer, those that were not chosen among them."
    )


def _search_table(results: Results) -> str:
    rows = [row for name in ("best-of-n", "darwin", "transfer-q") for row in results.rows(name).values()]
    cells = [
        [
            _search_name(row),
            *(interval(row.intervals.get(name)) for name in (HELPFUL, HARMLESS, "fluent")),
            f"{generated(row):.0f}",
        ]
        for row in rows
    ]
    return markdown(["search", HELPFUL, HARMLESS, "fluent", "drawn/answer"], cells)


def _search_name(row: Row) -> str:
    parameters = row.setting.parameters
    names = {
        "best_of_n": "best-of-N, N = {n_candidates}",
        "darwin": "DARWIN",
        "transfer_q": "Transfer-Q*, w = {w:g}",
    }
    return names[row.setting.method].format(**parameters)


def _costs(results: Results) -> dict[str, tuple[Cost, Cost]]:
    together, single = (results.sweeps.costs(kind) for kind in COSTS)
    return {label: (together[label], single[label]) for label in together}


def _cost_table(costs: Mapping[str, tuple[Cost, Cost]]) -> str:
    header = ["method", "ms/token together", "forwards", "computed", "ms/token alone", "forwards", "computed"]
    return markdown(
        header,
        [[label, *(cell for cost in both for cell in _per_token(cost))] for label, both in costs.items()],
    )


def _per_token(cost: Cost) -> tuple[str, str, str]:
    tokens = max(1, cost.tokens)
    forwards, computed = (sum((one or {}).values()) / tokens for one in (cost.forwards, cost.computed))
    return number(1000 * cost.seconds / tokens), number(forwards), number(computed, 1)


def _how(plan: Plan, about: Mapping[str, Any]) -> list[str]:
    trainings = [
        [
            name,
            one.loss,
            "small start" if one.small else "base",
            str(one.updates),
            str(one.batch),
            _told(one.settings),
        ]
        for name, one in plan.trainings.items()
    ]
    return [
        f"All models are trained by `genarm train` on {plan.pairs:,} preference pairs of a seed and objective, labelled by "
        "the oracle "
        "with one label in ten wrong; AdamW, cosine, 5 % warm-up. The small start model "
        f"({plan.start_steps} updates of {plan.start_batch} conversations) has 0.93 million parameters, the base 3.97 "
        "million. The "
        f"policies for DeRa are retrained at β {', '.join(f'{beta:g}' for beta in plan.dera_betas.values())}, everything "
        "else as for `dpo`.",
        markdown(["model", "loss", "from", "updates", "pairs each", "settings"], trainings),
        "Updates times pairs each is how many pairs a model has seen: the small models see all of theirs twice where that is "
        "twice as many. ARMs have a term for the chosen answer's NLL per token (`sft_weight`), which keeps them language models; "
        "no other loss has one. Learning rates and β were set once, by a pilot of one training of the large ARM, DPO and the "
        "small ARM on pairs of another seed and 60 other prompts; none was searched for. PARM is an adapter: its rate is the "
        "best of three (0.0005, 0.003, 0.01) by accuracy on training pairs in 60 updates. Transfer-Q*'s k and rollout_tokens are "
        "its paper's. These two were set so after they had done worse on the held-out prompts at 0.0005, and with k 5 and 10 "
        "tokens.",
        *about["notes"],
    ]


def _told(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )


def _pictures(results: Results) -> dict[str, bytes]:
    curves, base = curves_of(results.curves), results.curves["base"]
    series = {LABELS[name]: [base, *curves[name]] for name in LABELS}
    return {
        "evaluation-kl.png": kl_picture(series, HELPFUL),
        "evaluation-frontier.png": frontier_picture(frontiers(results), HELPFUL, HARMLESS),
    }


def _records(
    results: Results, fronts: Sequence[Frontier], costs: Mapping[str, tuple[Cost, Cost]]
) -> dict[str, Any]:
    rows = {
        "curves": results.curves,
        **{
            f"curves, seed {seed}": rows
            for seed, rows in zip(results.sweeps.plan.seeds, results.seeds("curves"), strict=True)
        },
        **{
            name: results.rows(name)
            for name in ("retrained", "strengths", "relatives", "best-of-n", "darwin", "transfer-q")
        },
    }
    return {
        "rows": {name: [_record(row) for row in own.values()] for name, own in rows.items()},
        "frontiers": {
            one.method: {
                "volume": asdict(one.volume),
                "mip": one.mip,
                "rows": [_record(row) for row in one.rows],
            }
            for one in fronts
        },
        "costs": {label: [asdict(cost) for cost in both] for label, both in costs.items()},
    }


def _record(row: Row) -> dict[str, Any]:
    return {
        **row.setting.as_json(),
        "scores": {name: asdict(value) for name, value in row.intervals.items()},
        "kl_per_token": None if row.kl is None else asdict(row.kl),
        "tokens_drawn_per_answer": generated(row),
        "distinct": row.distinct,
    }


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
