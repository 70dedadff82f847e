"""Findings as a picture: times of steps along each axis, and the comparisons beside their bars."""

import importlib.util
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arm_models.errors import UserError
from server.bench.findings import Finding

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg")
_AXES = ("batch", "context", "rewards")
_MOST_LINES = 6


def check_chart(path: Path) -> None:
    """Whether a chart could be written to ``path``, before hours of measuring.

    Raises:
        UserError: it is no .png or .svg, its folder does not exist, or matplotlib is missing.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"--chart: {path} must end with {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise UserError(f"--chart: the folder {path.parent} does not exist")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("--chart needs matplotlib: pip install 'genarm[bench]'")


def draw(findings: Sequence[Finding], path: Path) -> None:
    """Write the chart: in the upper row the steps, where they were measured, below the comparisons that have a bar."""
    from matplotlib.figure import Figure

    cells = [cell for finding in findings for cell in finding.record.get("cells", ())]
    compared = [finding for finding in findings if compared_with_bar(finding) is not None]
    heights = [4.0] * bool(cells) + [1.0 + 0.35 * len(compared)] * bool(compared)
    if not heights:
        raise UserError("--chart: none of these scenarios has anything to draw")
    figure = Figure(figsize=(12, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(heights), 3, height_ratios=heights)
    if cells:
        for column, axis in enumerate(_AXES):
            _steps(figure.add_subplot(grid[0, column]), axis, cells)
    if compared:
        _bars(figure.add_subplot(grid[-1, :]), compared)
    beside = path.with_name(f"{path.stem}.tmp{path.suffix}")
    figure.savefig(beside, dpi=120, metadata=None if path.suffix == ".png" else {"Date": None})
    beside.replace(path)


def lines(axis: str, cells: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """What is drawn along an axis: label → (size, milliseconds), ordered. A line for each setting of the others, the few that
    are longest: of equally long ones those that differ most in the times they end with."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for cell in cells:
        kinds = (
            {one["kind"] for one in cells} if axis == "rewards" and not cell["rewards"] else {cell["kind"]}
        )
        for kind in kinds:
            others = [f"{cell[other]} {other}" for other in _AXES if other != axis]
            label = ", ".join(others) + (f" ({kind})" if axis == "rewards" or cell["rewards"] else "")
            found[label].append((cell[axis], 1000 * cell["seconds"]))
    longest = max(map(len, found.values()))
    whole = sorted((sorted(points), label) for label, points in found.items() if len(points) == longest)
    whole.sort(key=lambda pair: pair[0][-1][1])
    step = max(1.0, (len(whole) - 1) / (_MOST_LINES - 1))
    chosen = dict.fromkeys(round(number * step) for number in range(_MOST_LINES))
    return {whole[index][1]: whole[index][0] for index in chosen if index < len(whole)}


def _steps(axes: "Axes", axis: str, cells: Sequence[Mapping[str, Any]]) -> None:
    for label, points in lines(axis, cells).items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=label)
    if axis != "rewards":
        axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(axis)
    axes.set_ylabel("ms a step")
    axes.legend(fontsize=6)
    axes.grid(alpha=0.3)


def compared_with_bar(finding: Finding) -> tuple[float, float, bool] | None:
    """Value, bar, and whether the value is to be at least the bar; None where there is no such thing."""
    found = re.fullmatch(r"([≥≤]) ([\d.]+)(?: x)?", finding.row.bar)
    keys = ("measured_over_expected", "ratio", "share", "slope", "longest")
    value = next((finding.record[key] for key in keys if key in finding.record), None)
    if found is None or value is None:
        return None
    return float(value), float(found[2]), found[1] == "≥"


def _bars(axes: "Axes", findings: Sequence[Finding]) -> None:
    for row, finding in enumerate(findings):
        compared = compared_with_bar(finding)
        assert compared is not None
        value, bar, _ = compared
        axes.barh(row, value, height=0.6, color="tab:blue" if finding.reached else "tab:red")
        axes.plot([bar, bar], [row - 0.4, row + 0.4], color="black", linewidth=2)
        axes.annotate(f" {value:.2f} ({finding.row.bar})", (max(value, bar), row), va="center", fontsize=7)
    axes.set_yticks(range(len(findings)), [finding.row.name for finding in findings], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("value; the black line is the bar")
    axes.margins(x=0.15)
