"""A sweep as a table to read, and as JSON or CSV to work with."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arm_models.errors import UserError
from arm_models.evaluation.bars import Bar
from arm_models.evaluation.generation import Weights
from arm_models.evaluation.sweep import Sweep
from arm_models.whole_file import write_whole

FORMATS = (".json", ".csv")


def weights_text(weights: Weights) -> str:
    """ "helpful 1, harmless 0.5", or "base" for no weights."""
    return ", ".join(f"{name} {weight:g}" for name, weight in weights.items()) or "base"


def table(sweep: Sweep) -> str:
    """A Markdown table: one line per row of weights, means with 95 % intervals."""
    names = list(sweep.base.intervals())
    lines = [f"| weights | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for row in sweep.rows:
        cells = []
        for name, interval in row.intervals().items():
            digits = 1 if name == "words" else 2
            cells.append(
                f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
            )
        lines.append(f"| {weights_text(row.weights)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def bars_text(bars: Sequence[Bar]) -> str:
    """One line per bar: ok or MISSED, the promise, what was measured."""
    return "\n".join(f"{'ok    ' if bar.holds else 'MISSED'} {bar.promise}: {bar.measured}" for bar in bars)


def check_output(path: Path) -> None:
    """Raise ``UserError`` unless ``path`` ends in .json or .csv and its folder exists."""
    if path.suffix not in FORMATS:
        raise UserError(f"--output {path}: the name must end in .json or .csv")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--output {path}: no such folder {path.parent}")


def write(sweep: Sweep, bars: Sequence[Bar], settings: dict[str, Any], path: Path) -> None:
    """Write the rows (JSON: with settings, bars and answers too) to ``path``, beside and then renamed."""
    text = _json(sweep, bars, settings) if path.suffix == ".json" else _csv(sweep)
    write_whole(path, text)


def _json(sweep: Sweep, bars: Sequence[Bar], settings: dict[str, Any]) -> str:
    rows = [
        {
            "weights": dict(row.weights),
            "scores": {
                name: {"mean": interval.mean, "low": interval.low, "high": interval.high}
                for name, interval in row.intervals().items()
            },
            "answers": list(row.answers),
        }
        for row in sweep.rows
    ]
    listed = [{"promise": bar.promise, "measured": bar.measured, "holds": bar.holds} for bar in bars]
    return json.dumps({"settings": settings, "rows": rows, "bars": listed}, indent=1) + "\n"


def _csv(sweep: Sweep) -> str:
    names = list(dict.fromkeys(name for row in sweep.rows for name in row.weights))
    measures = list(sweep.base.intervals())
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    ends = ("", " low", " high")
    writer.writerow(
        [*(f"α {name}" for name in names), *(measure + end for measure in measures for end in ends)]
    )
    for row in sweep.rows:
        intervals = row.intervals()
        numbers = [
            f"{value:.6g}"
            for measure in measures
            for value in (intervals[measure].mean, intervals[measure].low, intervals[measure].high)
        ]
        writer.writerow([*(f"{row.weights.get(name, 0.0):g}" for name in names), *numbers])
    return buffer.getvalue()
