"""Frontiers and rewards against KL as pictures (matplotlib), written to memory."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from arm_models.errors import UserError
from arm_models.evaluation.bootstrap import Interval
from arm_models.evaluation.summary import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Series = Mapping[str, Sequence[Row]]
"""What is drawn in one colour, by its label."""

_Place = Callable[[Row], "Interval | None"]


def check_pictures() -> None:
    """Raise ``UserError`` where matplotlib is missing, before hours of work."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("a report with pictures needs matplotlib: pip install 'genarm[bench]'")


def frontier_picture(series: Series, across: str, upward: str) -> bytes:
    """A PNG: each setting at its mean of the two scores, with intervals; a line through each series along ``across``."""
    return _png(
        series, lambda row: row.intervals.get(across), lambda row: row.intervals.get(upward), across, upward
    )


def kl_picture(series: Series, score: str) -> bytes:
    """A PNG: the mean score of each setting against its KL per token, with intervals."""
    return _png(
        series,
        lambda row: row.kl,
        lambda row: row.intervals.get(score),
        "KL(guided‖base), nats per token",
        score,
    )


def _png(series: Series, x: _Place, y: _Place, across: str, upward: str) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for label, rows in series.items():
        _line(axes, label, [(x(row), y(row)) for row in rows])
    axes.set_xlabel(across)
    axes.set_ylabel(upward)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _line(axes: Axes, label: str, places: Sequence[tuple[Interval | None, Interval | None]]) -> None:
    known = sorted(((x, y) for x, y in places if x and y), key=lambda place: place[0].mean)
    if not known:
        return
    across, upward = zip(*known, strict=True)
    axes.errorbar(
        [x.mean for x in across],
        [y.mean for y in upward],
        xerr=[[x.mean - x.low for x in across], [x.high - x.mean for x in across]],
        yerr=[[y.mean - y.low for y in upward], [y.high - y.mean for y in upward]],
        marker="o",
        markersize=4,
        linewidth=1,
        elinewidth=0.5,
        label=label,
    )
