"""What simulations say, as pictures (matplotlib)."""

from __future__ import annotations

import importlib.util
import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from arm_models.errors import UserError
from server.simulation.bottleneck import Resource
from server.simulation.measured import Measured
from server.simulation.prices import replica_hours_per_million

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cells = Sequence[Mapping[str, Any]]


def check_pictures() -> None:
    """Raise ``UserError`` where matplotlib is missing, before minutes of work."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("pictures need matplotlib: pip install 'genarm[bench]'")


def fit_picture(measured: Measured) -> bytes:
    """A PNG: each step that the fit has not seen, measured against fitted, on logarithmic axes."""
    cost = measured.cost()
    figure = _figure(6.0, 5.0)
    axes = figure.add_subplot()
    kinds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for sample in measured.checks:
        kind = "prompts beside" if any(own.read for own in sample.load) else "decoding only"
        kinds[kind].append((1000 * cost.seconds(sample.load), 1000 * sample.seconds))
    for kind, points in sorted(kinds.items()):
        fitted, measured_ms = zip(*points, strict=True)
        axes.scatter(fitted, measured_ms, s=6, alpha=0.5, label=kind)
    ends = [min(min(pair) for pair in _all(kinds)), max(max(pair) for pair in _all(kinds))]
    axes.plot(ends, ends, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("fitted, ms a step")
    axes.set_ylabel("measured, ms a step")
    axes.legend(fontsize=8)
    return _png(figure)


def scale_picture(cells: Cells, guided: float, load: float) -> bytes:
    """A PNG of what N replicas do under each policy, at one share of guided traffic and one load: tokens a second of a replica,
    the first token's p95, the share of prompts that was kept."""
    chosen = [cell for cell in cells if cell["guided"] == guided and cell["load"] == load]
    figure = _figure(13.0, 3.8)
    panels: Sequence[tuple[str, Callable[[Mapping[str, Any]], float | None]]] = (
        ("output tokens/s of a replica", lambda cell: float(cell["throughput"]) / cell["replicas"]),
        ("first token, p95, s", lambda cell: cell["ttft"]["p95"]),
        ("share of prompt tokens kept", lambda cell: cell["hit_rate"]),
    )
    for place, (label, value) in enumerate(panels):
        axes = figure.add_subplot(1, 3, place + 1)
        _lines(axes, chosen, lambda cell: cell["policy"], lambda cell: cell["replicas"], value)
        axes.set_xscale("log")
        axes.set_xlabel("replicas")
        axes.set_ylabel(label)
    figure.suptitle(f"guided {guided:g}, load {load:g} of capacity", fontsize=9)
    return _png(figure)


def load_picture(cells: Cells, policy: str, replicas: int) -> bytes:
    """A PNG of what load does, with a line for each share of guided traffic: the first token's p95, the time between tokens, and
    what a million tokens take."""
    chosen = [cell for cell in cells if cell["policy"] == policy and cell["replicas"] == replicas]
    figure = _figure(13.0, 3.8)
    panels: Sequence[tuple[str, Callable[[Mapping[str, Any]], float | None]]] = (
        ("first token, p95, s", lambda cell: cell["ttft"]["p95"]),
        ("between tokens, p95, s", lambda cell: cell["between"]["p95"]),
        (
            "replica hours / 10⁶ tokens",
            lambda cell: (
                replica_hours_per_million(cell["replicas"], cell["throughput"])
                if cell["throughput"] > 0
                else None
            ),
        ),
    )
    for place, (label, value) in enumerate(panels):
        axes = figure.add_subplot(1, 3, place + 1)
        _lines(axes, chosen, lambda cell: f"guided {cell['guided']:g}", lambda cell: cell["load"], value)
        axes.set_xlabel("load, share of capacity")
        axes.set_ylabel(label)
    figure.suptitle(f"{replicas} replicas, policy {policy}", fontsize=9)
    return _png(figure)


def bottleneck_picture(found: Sequence[Resource], replicas: Sequence[int]) -> bytes:
    """A PNG: how full each measured resource is against the number of replicas; full is the black line."""
    figure = _figure(6.4, 4.4)
    axes = figure.add_subplot()
    for resource in found:
        if resource.use is not None:
            axes.plot(replicas, [max(1e-9, resource.use(count)) for count in replicas], label=resource.name)
    axes.axhline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("replicas")
    axes.set_ylabel("share in use")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return _png(figure)


def _all(kinds: Mapping[str, Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    return [pair for points in kinds.values() for pair in points]


def _lines(
    axes: Axes,
    cells: Cells,
    label: Callable[[Mapping[str, Any]], str],
    x: Callable[[Mapping[str, Any]], float],
    y: Callable[[Mapping[str, Any]], float | None],
) -> None:
    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for cell in cells:
        value = y(cell)
        if value is not None:
            lines[label(cell)].append((x(cell), value))
    for name, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=3, linewidth=1, label=name)
    axes.grid(alpha=0.3)
    if lines:
        axes.legend(fontsize=7)
        axes.set_ylim(0, 1.1 * max(1e-9, axes.dataLim.y1))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
