"""Findings as text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from server.bench.findings import Finding

_HEADS = ("comparison", "ours", "peer", "value", "runs", "bar")


def table(findings: Sequence[Finding]) -> str:
    """A line for each; below them the cells of a grid of steps, where there is one."""
    rows = [finding.row for finding in findings]
    widths = _widths([_HEADS, *rows])
    lines = [_line(_HEADS, widths)]
    for finding in findings:
        verdict = "" if finding.row.bar == "none" else " ok" if finding.reached else " MISSED"
        lines.append(_line(finding.row, widths) + verdict)
    for finding in findings:
        if "cells" in finding.record:
            lines += ["", *_grid(finding.record["cells"])]
    return "\n".join(lines)


def _grid(cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Milliseconds of a step: a line for every kind, number of rewards and batch, a column for every context."""
    contexts = sorted({cell["context"] for cell in cells})
    times = {
        (cell["kind"], cell["rewards"], cell["batch"], cell["context"]): 1000 * cell["seconds"]
        for cell in cells
    }
    rows = [("ms a step: rewards", "batch", *(f"context {context}" for context in contexts))]
    for kind, rewards, batch in dict.fromkeys(key[:3] for key in times):
        found = [times.get((kind, rewards, batch, context)) for context in contexts]
        shown = ["–" if time is None else f"{time:.1f}" for time in found]
        rows.append((f"{rewards} {kind}" if rewards else "none", str(batch), *shown))
    widths = _widths(rows)
    yield from (_line(row, widths) for row in rows)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])
