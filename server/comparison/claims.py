"""What the papers claim, as checks on the comparison's results: statement, figures, interval, and whether it holds here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from arm_models.evaluation.bootstrap import Interval
from arm_models.evaluation.equal_kl import advantage, curve_values
from arm_models.evaluation.measures.hypervolume import hypervolume
from arm_models.evaluation.report.figures import interval, number
from arm_models.evaluation.resampling import Values, means, resampled
from arm_models.evaluation.summary import Row
from server.comparison.models import SOUP, retrained
from server.comparison.results import Results, Rows, curves_of, mean
from server.comparison.sweeps import HARMLESS, HELPFUL

REPRODUCES, FAILS, UNDECIDED = "reproduces", "does not reproduce", "cannot be told here"
MARGIN = 0.02
"""Of the helpful score (0 to 1): a method that is worse by less counts as not worse."""
REFERENCE = (0.0, 0.0)
"""The hypervolume's reference point: no helpful, no harmless answer."""

GENARM, SMALL = f"genarm {HELPFUL}-arm", f"genarm {HELPFUL}-small-arm"
ARGS, PARGS = f"args {HELPFUL}-small-bt", f"pargs {HELPFUL}-small-prefix"
DPO = f"dera {HELPFUL}-dpo"


@dataclass(frozen=True)
class Claim:
    """One claim. ``value``: the figure it turns on; ``details``: what else one should know, a line each."""

    statement: str
    measured: str
    value: Interval
    verdict: str
    details: tuple[str, ...] = ()


def claims(results: Results) -> list[Claim]:
    """All of them, in the order in which they are written."""
    return [
        _at_equal_kl(results, "GenARM beats ARGS at equal KL", ARGS, 0.0),
        _at_equal_kl(results, "GenARM is not worse than PARGS at equal KL", PARGS, -MARGIN),
        _transfer(results),
        _dpo(results),
        _weak_to_strong(results),
        _soups(results),
        *_dera(results),
        _darwin(results),
    ]


def frontiers(results: Results) -> dict[str, list[Row]]:
    """The rows of each frontier over (helpful, harmless); MOD's and PARM's from the first seed alone."""
    return {
        "GenARM": list(results.together("frontier").values()),
        "Rewarded Soups": list(results.together(SOUP).values()),
        "MOD (first seed)": list(results.rows("mod").values()),
        "PARM (first seed)": list(results.rows("parm").values()),
    }


def _at_equal_kl(results: Results, statement: str, other: str, bar: float) -> Claim:
    """The same pairs, the same small start model; reward against KL from the base up to where the shorter curve ends."""

    def ahead(rows: Rows) -> Interval:
        curves, base = curves_of(rows), rows["base"]
        ours, theirs = (curve_values([base, *curves[name]], HELPFUL) for name in (SMALL, other))
        return advantage(ours, theirs)

    value = ahead(results.curves)
    each = [ahead(rows) for rows in results.seeds("curves")]
    verdict = _verdict(value, bar)
    if verdict == REPRODUCES and any(one.mean < bar for one in each):
        verdict = UNDECIDED
    return Claim(
        statement,
        f"helpful, GenARM − {other.split()[0].upper()}, on average along the KL both reach: {interval(value, 3)}",
        value,
        verdict,
        (
            f"by training seed: {'; '.join(interval(one, 3) for one in each)}",
            f"{_bar(bar)}, and each seed's mean too",
        ),
    )


def _transfer(results: Results) -> Claim:
    """At equal KL: first seed, the prompts that Transfer-Q* has answered."""
    searched = results.rows("transfer-q")
    prompts = len(next(iter(searched.values())).answers)
    rows = results.rows(f"curves-{results.sweeps.plan.seeds[0]}")
    base, ours = rows["base"], curves_of(rows)[SMALL]
    theirs = list(searched.values())
    start = curve_values([base], HELPFUL)[:, :, :prompts]
    curve = np.concatenate([start, *(curve_values([row], HELPFUL, first=False) for row in theirs)], axis=1)
    value = advantage(curve_values([base, *ours], HELPFUL)[:, :, :prompts], curve)
    best = max(theirs, key=lambda row: mean(row, HELPFUL))
    chosen = rows[results.chosen[SMALL]]
    return Claim(
        "GenARM is not worse than Transfer-Q* at equal KL",
        f"helpful, GenARM − Transfer-Q*, on average along the KL both reach: {interval(value, 3)}",
        value,
        _verdict(value, -MARGIN),
        (
            f"first seed, {prompts} prompts; at its most helpful weight each: GenARM {number(mean(chosen, HELPFUL))} at KL "
            f"{interval(chosen.kl, 3)}, Transfer-Q* {number(mean(best, HELPFUL))} at KL {interval(best.kl, 3)}",
            _bar(-MARGIN),
        ),
    )


def _dpo(results: Results) -> Claim:
    """An ARM of the base's size, trained from the base, against the base trained by DPO; the same pairs and updates."""
    ours, theirs = results.curves[results.chosen[GENARM]], _policy(results.curves)
    value = _difference(ours, theirs)
    each = [_difference(rows[results.chosen[GENARM]], _policy(rows)) for rows in results.seeds("curves")]
    curves, base = curves_of(results.curves), results.curves["base"]
    ours_curve, their_curve = (curve_values([base, *curves[name]], HELPFUL) for name in (GENARM, DPO))
    equal = advantage(ours_curve, their_curve)
    return Claim(
        "GenARM with an ARM of the base's size is as good as DPO",
        f"helpful {number(mean(ours, HELPFUL))} ({results.chosen[GENARM]}) against {number(mean(theirs, HELPFUL))} (DPO), "
        f"difference {interval(value, 3)}",
        value,
        REPRODUCES if value.high >= 0 else FAILS,
        (
            f"by training seed: {'; '.join(interval(one, 3) for one in each)}",
            f"at equal KL (DPO's curve is DeRa's over λ): {interval(equal, 3)}",
            "it reproduces where the interval of the difference reaches 0",
        ),
    )


def _weak_to_strong(results: Results) -> Claim:
    """How much of the gap between the base and DPO a reward of a quarter of the base's size closes."""

    def recovered(rows: Rows) -> Interval:
        three = (rows["base"], rows[results.chosen[SMALL]], _policy(rows))
        return resampled(_share, np.array([row.scores[HELPFUL] for row in three], dtype=np.float64))

    value = recovered(results.curves)
    each = [recovered(rows) for rows in results.seeds("curves")]
    base, ours, theirs = (
        number(mean(row, HELPFUL))
        for row in (results.curves["base"], results.curves[results.chosen[SMALL]], _policy(results.curves))
    )
    return Claim(
        "A small ARM guiding a base more than 4 times its size recovers at least 70 % of the gap to DPO",
        f"helpful {base} (base), {ours} ({results.chosen[SMALL]}), {theirs} (DPO): {interval(value)} of the gap",
        value,
        REPRODUCES if value.low >= 0.7 else FAILS if value.high < 0.7 else UNDECIDED,
        (f"by training seed: {'; '.join(interval(one) for one in each)}",),
    )


def _soups(results: Results) -> Claim:
    def volumes(both: Values) -> float:
        ours, theirs = np.split(means(both), 2)
        return hypervolume(ours, REFERENCE) - hypervolume(theirs, REFERENCE)

    def larger(genarm: Sequence[Row], soup: Sequence[Row]) -> Interval:
        rows = [*genarm, *soup]
        return resampled(
            volumes, np.array([[row.scores[name] for name in (HELPFUL, HARMLESS)] for row in rows])
        )

    found = frontiers(results)
    value = larger(found["GenARM"], found["Rewarded Soups"])
    each = [
        larger(list(genarm.values()), list(soup.values()))
        for genarm, soup in zip(results.seeds("frontier"), results.seeds(SOUP), strict=True)
    ]
    return Claim(
        "GenARM's (helpful, harmless) frontier has a larger hypervolume than Rewarded Soups'",
        f"hypervolume above {REFERENCE}, GenARM − Rewarded Soups: {interval(value, 3)}",
        value,
        _verdict(value, 0.0),
        (f"by training seed: {'; '.join(interval(one, 3) for one in each)}",),
    )


def _dera(results: Results) -> list[Claim]:
    """Each λ against the policy that was retrained at β/λ; first seed."""
    strengths, policies = results.rows("strengths"), results.rows("retrained")
    found = []
    for (strength, beta), dera in zip(
        results.sweeps.plan.dera_betas.items(), strengths.values(), strict=True
    ):
        other = next(
            row for row in policies.values() if row.setting.parameters["policy"] == retrained(strength)
        )
        value = _difference(dera, other)
        found.append(
            Claim(
                f"DeRa at λ = {strength:g} matches DPO retrained at β/λ = {beta:g}",
                f"helpful {number(mean(dera, HELPFUL))} against {number(mean(other, HELPFUL))}, difference {interval(value, 3)}",
                value,
                REPRODUCES if value.low <= 0 <= value.high else FAILS,
                (f"KL per token {interval(dera.kl, 3)} against {interval(other.kl, 3)}; first seed",),
            )
        )
    return found


def _darwin(results: Results) -> Claim:
    """Best-of-N at DARWIN's number of tokens, on a straight line over log tokens between the N around it."""
    (darwin,) = results.rows("darwin").values()
    best = sorted(results.rows("best-of-n").values(), key=generated)
    spent = generated(darwin)
    tokens = [generated(row) for row in best]
    above = min(max(1, sum(one <= spent for one in tokens)), len(best) - 1)
    low, high = math.log(tokens[above - 1]), math.log(tokens[above])
    share = min(1.0, max(0.0, (math.log(spent) - low) / (high - low)))
    three = np.array(
        [row.scores[HELPFUL] for row in (darwin, best[above - 1], best[above])], dtype=np.float64
    )

    def ahead(values: Values) -> float:
        ours, fewer, more = means(values)
        return float(ours - (1 - share) * fewer - share * more)

    value = resampled(ahead, three)
    beside = ", ".join(
        f"N = {row.setting.parameters['n_candidates']}: {number(mean(row, HELPFUL))} at {generated(row):.0f}"
        for row in best
    )
    outside = not tokens[0] <= spent <= tokens[-1]
    return Claim(
        "DARWIN beats best-of-N at equal tokens",
        f"helpful {number(mean(darwin, HELPFUL))} with {spent:.0f} tokens per answer, difference {interval(value, 3)}",
        value,
        UNDECIDED if outside else _verdict(value, 0.0),
        (f"best-of-N, helpful at tokens drawn per answer: {beside}; first seed, both by the ARGS scorer",),
    )


def generated(row: Row) -> float:
    """Tokens drawn per answer, those of texts that were not chosen included."""
    every = [
        one.tokens if one.generated is None else one.generated for samples in row.answers for one in samples
    ]
    return sum(every) / len(every)


def _policy(rows: Rows) -> Row:
    """The policy as it is: λ = 1."""
    return next(row for row in curves_of(rows)[DPO] if row.setting.parameters["lambda"] == 1.0)


def _difference(ours: Row, theirs: Row, prompts: int | None = None) -> Interval:
    """Of the helpful scores over the same prompts."""
    both = np.array([row.scores[HELPFUL][:prompts] for row in (ours, theirs)], dtype=np.float64)
    return resampled(_gap, both)


def _gap(both: Values) -> float:
    ours, theirs = means(both)
    return float(ours - theirs)


def _share(three: Values) -> float:
    base, ours, theirs = means(three)
    return float((ours - base) / (theirs - base)) if theirs != base else math.nan


def _verdict(value: Interval, bar: float) -> str:
    return REPRODUCES if value.low > bar else FAILS if value.high < bar else UNDECIDED


def _bar(bar: float) -> str:
    return f"it reproduces where the whole interval lies above {number(bar)}"
