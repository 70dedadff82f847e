"""A summary as JSON (everything) and CSV (a line per setting)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from arm_models.evaluation.answers import Cost
from arm_models.evaluation.bootstrap import Interval
from arm_models.evaluation.summary import NGRAMS, Frontier, Row


def as_json(
    rows: Sequence[Row], frontiers: Sequence[Frontier], costs: Sequence[Cost], about: Mapping[str, Any]
) -> str:
    """Settings, means with intervals, frontiers and costs; no answers, which lie in the sweep's own folder."""
    content = {
        "about": dict(about),
        "rows": [_row(row) for row in rows],
        "frontiers": [
            {
                "method": one.method,
                "objectives": one.objectives,
                "reference": one.reference,
                "hypervolume": asdict(one.volume),
                "mip": one.mip,
                "settings": [row.setting.name for row in one.rows],
            }
            for one in frontiers
        ],
        "costs": [asdict(cost) for cost in costs],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """A line per setting; every score with the ends of its interval."""
    names = list(dict.fromkeys(name for row in rows for name in row.intervals))
    ends = ("", " low", " high")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    measured = [*names, "kl", "win rate"]
    header = ["setting", "method", "preferences", "parameters"]
    writer.writerow(
        [
            *header,
            *(name + end for name in measured for end in ends),
            *(f"distinct-{n}" for n in NGRAMS),
            "tokens",
        ]
    )
    for row in rows:
        setting = row.setting
        told = [setting.name, setting.method, *map(_compact, (setting.preferences, setting.parameters))]
        intervals = [*(row.intervals.get(name) for name in names), row.kl, row.win_rate]
        numbers = [cell for one in intervals for cell in _ends(one)]
        writer.writerow([*told, *numbers, *(f"{value:.6g}" for value in row.distinct), row.tokens])
    return buffer.getvalue()


def _row(row: Row) -> dict[str, Any]:
    return {
        **row.setting.as_json(),
        "scores": {name: asdict(value) for name, value in row.intervals.items()},
        "kl_per_token": None if row.kl is None else asdict(row.kl),
        "record": None if row.record is None else asdict(row.record),
        "win_rate": None if row.win_rate is None else asdict(row.win_rate),
        **{f"distinct_{n}": value for n, value in zip(NGRAMS, row.distinct, strict=True)},
        "tokens": row.tokens,
    }


def _compact(value: Mapping[str, Any] | None) -> str:
    return "" if value is None else json.dumps(dict(value))


def _ends(value: Interval | None) -> list[str]:
    if value is None:
        return ["", "", ""]
    return [f"{one:.6g}" for one in (value.mean, value.low, value.high)]
