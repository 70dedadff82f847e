"""A summary as rows of text: one list of columns for the terminal, Markdown and the page."""

from __future__ import annotations

from collections.abc import Sequence

from arm_models.evaluation.answers import Cost
from arm_models.evaluation.report.figures import interval, markdown, number
from arm_models.evaluation.summary import NGRAMS, Frontier, Row

_DIGITS = {"words": 1}


def columns(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells: the setting, its scores, KL, win rate where there was a judge, distinct-n, tokens."""
    names = list(dict.fromkeys(name for row in rows for name in row.intervals))
    judged = any(row.verdicts for row in rows)
    header = ["setting", *names, "KL/token", *(["win + ½ tie"] if judged else [])]
    header += [*(f"distinct-{length}" for length in NGRAMS), "tokens"]
    return header, [_cells(row, names, judged) for row in rows]


def table(rows: Sequence[Row]) -> str:
    """The columns as Markdown."""
    return markdown(*columns(rows))


def frontier_columns(frontiers: Sequence[Frontier]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of what the methods' frontiers measure."""
    header = ["method", "settings", "hypervolume", "MIP"]
    cells = [
        [
            one.method,
            str(len(one.rows)),
            interval(one.volume, 3),
            "–" if one.mip is None else number(one.mip, 3),
        ]
        for one in frontiers
    ]
    return header, cells


def cost_text(costs: Sequence[Cost]) -> str:
    """Tokens per second and forwards per token of all runs together, on one line; "" for none."""
    seconds, tokens = sum(cost.seconds for cost in costs), sum(cost.tokens for cost in costs)
    if not tokens or not seconds:
        return ""
    answers = sum(cost.answers for cost in costs)
    text = f"{answers} answers, {tokens} tokens in {seconds:.1f} s: {tokens / seconds:.0f} tokens/s"
    if any(cost.forwards is None for cost in costs):
        return text
    forwards = sum(sum((cost.forwards or {}).values()) for cost in costs)
    computed = sum(sum((cost.computed or {}).values()) for cost in costs)
    return f"{text}, {forwards / tokens:.3f} forwards and {computed / tokens:.2f} computed tokens per answer token"


def _cells(row: Row, names: Sequence[str], judged: bool) -> list[str]:
    scores = [interval(row.intervals.get(name), _DIGITS.get(name, 2)) for name in names]
    win = [interval(row.win_rate)] if judged else []
    spread = [number(value) for value in row.distinct]
    return [row.setting.name, *scores, interval(row.kl, 3), *win, *spread, str(row.tokens)]
