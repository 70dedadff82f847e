"""What measurements and simulations say, as tables."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from server.simulation.bottleneck import Central, Resource, Share, first, resources
from server.simulation.measured import Measured
from server.simulation.prices import cost_per_million, replica_hours_per_million
from server.simulation.table import percent, seconds, table

Cells = Sequence[Mapping[str, Any]]


def costs_table(measured: Measured) -> str:
    """The fitted parts of a step, in microseconds."""
    cost = measured.cost()
    head = ["class", "running", "a row drawn", "1,000 attended", "1,000 read", "1,000 moved", "a token"]
    rows = []
    for name, one in cost.costs.items():
        bounds = [*(f"≤ {knee}" for knee in one.knees), "beyond" if one.knees else "each"]
        slopes = ", ".join(
            f"{1e6 * slope:.0f} ({bound})" for slope, bound in zip(one.slopes, bounds, strict=True)
        )
        parts = (one.running, one.draws, 1000 * one.attended, 1000 * one.read, 1000 * one.moved)
        rows.append([name, *(f"{1e6 * part:.0f}" for part in parts), slopes])
    return table(head, rows)


def sweep_table(cells: Cells, price: float | None = None) -> str:
    """A line for each cell; with what a replica costs an hour, what a million tokens cost."""
    head = ["replicas", "policy", "guided", "load", "tokens/s", "of capacity", "kept"]
    head += ["TTFT p50", "p95", "p99", "between p50", "p99", "whole p50", "p95", "refused"]
    head += ["replica hours / 10⁶ tokens"] + (["cost / 10⁶ tokens"] if price is not None else [])
    return table(head, [_cell_row(cell, price) for cell in cells])


def _cell_row(cell: Mapping[str, Any], price: float | None) -> list[str]:
    rate, replicas = cell["throughput"], cell["replicas"]
    capacity = replicas * cell["capacity"]["tokens"]
    hours = cost = "–"
    if rate > 0:
        hours = f"{replica_hours_per_million(replicas, rate):.3f}"
        cost = "" if price is None else f"{cost_per_million(price, replicas, rate):.2f}"
    row = [
        f"{replicas:,}",
        cell["policy"],
        f"{cell['guided']:g}",
        f"{cell['load']:g}",
        f"{rate:,.0f}",
        percent(rate / capacity if capacity else None),
        percent(cell["hit_rate"]),
        *(seconds(cell["ttft"][each]) for each in ("p50", "p95", "p99")),
        *(seconds(cell["between"][each]) for each in ("p50", "p99")),
        *(seconds(cell["end_to_end"][each]) for each in ("p50", "p95")),
        f"{cell['refused']:,}",
        hours,
    ]
    return row + ([cost] if price is not None else [])


def validation_table(cases: Cells) -> str:
    """A line for each case: simulated beside measured."""
    head = ["replicas", "load", "requests", "runs", "tokens/s simulated", "measured", "error", "noise", "bar"]
    head += ["TTFT p50", "p95", "between p50", "p95", "whole p50", "p95"]
    return table(head, [_case_row(case) for case in cases])


def _case_row(case: Mapping[str, Any]) -> list[str]:
    bar = "none" if case["bar"] is None else f"± {100 * case['bar']:.0f} %"
    row = [
        str(case["replicas"]),
        case["load"],
        str(case["requests"]),
        str(len(case["runs"])),
        f"{case['simulated']['throughput']:.0f}",
        f"{case['throughput']:.0f}",
        f"{100 * case['error']:+.1f} %",
        percent(case["noise"]),
        bar if case["reached"] else f"{bar}, missed",
    ]
    for what in ("ttft", "between", "end_to_end"):
        for each in ("p50", "p95"):
            runs = sorted(run[what][each] for run in case["runs"] if run[what][each] is not None)
            median = runs[len(runs) // 2] if runs else None
            row.append(f"{seconds(case['simulated'][what][each])} / {seconds(median)}")
    return row


def bottleneck_table(found: Sequence[Resource], replicas: Sequence[int]) -> str:
    """How full everything is with so many replicas, and with how many it is full."""
    head = ["resource", *(f"{count:,}" for count in replicas), "full with", "from"]
    rows = []
    for resource in found:
        most = resource.most()
        if most is None:
            rows.append([resource.name, *("not measured" for _ in replicas), "–", resource.why])
            continue
        full = "any number" if resource.per_replica else f"{most:,.0f}"
        if math.isinf(most):
            full = "none" if resource.per_replica else "more than 10,000,000"
        rows.append([resource.name, *(percent(resource.at(count)) for count in replicas), full, resource.why])
    return table(head, rows)


def bottlenecks(
    measured: Measured, cell: Mapping[str, Any], central: Central, replicas: Sequence[int]
) -> tuple[list[Resource], Mapping[int, Resource]]:
    """The resources under the traffic of a cell, and by number of replicas the fullest."""
    count = cell["replicas"]
    share = Share(
        cell["throughput"] / count,
        cell["requests_per_second"] / count,
        cell["throughput"] / (count * cell["capacity"]["tokens"]),
        cell["cache_usage"],
    )
    found = resources(measured, share, cell["policy"], central)
    return found, {number: first(found, number) for number in replicas}
