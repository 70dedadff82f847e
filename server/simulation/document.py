"""docs/scale.md and its pictures: every number in it is computed here from files, and what has not been measured says by which
command it would be."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from arm_models.whole_file import write_whole
from server.simulation.bottleneck import Central, Resource
from server.simulation.measured import Measured, Work
from server.simulation.pictures import bottleneck_picture, fit_picture, load_picture, scale_picture
from server.simulation.report import (
    bottleneck_table,
    bottlenecks,
    costs_table,
    sweep_table,
    validation_table,
)
from server.simulation.sweep import middle
from server.simulation.table import percent, seconds

COUNTS = (1, 10, 100, 1000)
"""Replicas that the bottlenecks are told for."""

TEXT = Path(__file__).with_name("scale.md.txt")


@dataclass(frozen=True, slots=True)
class Findings:
    """What there is to tell; None and empty: not there yet.

    Attributes:
        commands: by file, the command line that made it.
        price: of a replica an hour.
        assumed: of a machine by its data sheet.
    """

    measured: Measured | None = None
    validation: Mapping[str, Any] | None = None
    cells: Sequence[Mapping[str, Any]] = ()
    central: Central = field(default_factory=Central)
    price: float | None = None
    commands: Mapping[str, str] = field(default_factory=dict)
    assumed: Findings | None = None


def write_document(folder: Path, findings: Findings) -> list[Path]:
    """Write scale.md and the pictures into ``folder``; what was written.

    Raises:
        UserError: matplotlib is missing.
        OSError: the folder cannot be written to.
    """
    pictures = _pictures(findings)
    for name, png in pictures.items():
        write_whole(folder / name, png)
    text = TEXT.read_text(encoding="utf-8")
    for name, part in _parts(findings, pictures).items():
        text = text.replace(f"@{name}@", part)
    write_whole(folder / "scale.md", re.sub(r"\n{3,}", "\n\n", text))
    return [folder / "scale.md", *(folder / name for name in pictures)]


def _pictures(findings: Findings) -> dict[str, bytes]:
    pictures: dict[str, bytes] = {}
    if findings.measured is not None:
        pictures["scale-fit.png"] = fit_picture(findings.measured)
    if findings.cells:
        guided, load = (middle([cell[name] for cell in findings.cells]) for name in ("guided", "load"))
        pictures["scale-replicas.png"] = scale_picture(findings.cells, guided, load)
        pictures["scale-load.png"] = load_picture(findings.cells, *_loaded(findings.cells))
    if findings.cells and findings.measured is not None:
        found, _ = bottlenecks(findings.measured, _fullest(findings.cells), findings.central, COUNTS)
        counts = sorted({round(10 ** (power / 4)) for power in range(21)})
        pictures["scale-bottleneck.png"] = bottleneck_picture(found, counts)
    return pictures


def _parts(findings: Findings, pictures: Mapping[str, bytes]) -> dict[str, str]:
    """What stands in the place of each @NAME@."""
    parts = {
        "COMMAND": findings.commands.get("scale.md") or "genarm simulate document",
        "STEPS": _steps(findings),
        "VALIDATION": _validation(findings),
        "SWEEP": _sweep(findings),
        "BOTTLENECKS": _bottlenecks(findings),
        "ASSUMED": _assumed(findings),
    }
    for name in ("fit", "replicas", "load", "bottleneck"):
        file = f"scale-{name}.png"
        parts[f"PICTURE_{name.upper()}"] = f"![{_CAPTIONS[name]}]({file})" if file in pictures else ""
    return parts


_CAPTIONS = {
    "fit": "Measured against fitted steps",
    "replicas": "Throughput, first token and kept prompts against the number of replicas, by policy",
    "load": "First token, time between tokens and replica hours against the load, by share of guided traffic",
    "bottleneck": "How full each resource is against the number of replicas",
}


def _steps(findings: Findings) -> str:
    measured = findings.measured
    if measured is None:
        return _missing("measured.json")
    errors, limits = measured.errors(), measured.limits
    return "\n".join(
        [
            f"{measured.about.get('machine', 'unknown machine')}. {_made(findings, 'measured.json')}",
            "",
            f"{len(measured.steps):,} steps to fit, {len(measured.checks):,} the fit has not seen: "
            f"median error {percent(errors.median)}, 95th percentile {percent(errors.p95)}, all of them together "
            f"{100 * errors.total:+.1f} %. The engine's thread was without a core for "
            f"{percent(measured.about.get('off_cpu'))} of the time. Members: {', '.join(measured.members)}; "
            f"{limits.max_sequences} places, {limits.kv_tokens:,} tokens of cache each. Microseconds:",
            "",
            costs_table(measured),
            "",
            _beside(measured),
        ]
    )


def _beside(measured: Measured) -> str:
    slower = ", ".join(
        f"{count} busy: {factor:.2f} x" for count, factor in enumerate(measured.beside, start=1)
    )
    return (
        f"A step beside others on this machine of {measured.cores} cores: {slower}. CPU beside the steps: "
        f"the server {_work(measured.server)}, the client {_work(measured.client)}. From a request's arrival to "
        f"the step that begins it: {seconds(measured.arrival_seconds)}."
    )


def _work(work: Work) -> str:
    return f"{1e6 * work.token:.0f} µs a token and {1e3 * work.request:.1f} ms a request"


def _validation(findings: Findings) -> str:
    if findings.validation is None:
        return _missing("validation.json")
    return "\n".join(
        [
            _made(findings, "validation.json"),
            "",
            validation_table(findings.validation["cases"]),
        ]
    )


def _sweep(findings: Findings) -> str:
    if not findings.cells:
        return _missing("sweep.json")
    return "\n".join([_made(findings, "sweep.json"), "", sweep_table(findings.cells, findings.price)])


def _bottlenecks(findings: Findings) -> str:
    if not findings.cells or findings.measured is None:
        return _missing("sweep.json")
    cell = _fullest(findings.cells)
    found, fullest = bottlenecks(findings.measured, cell, findings.central, COUNTS)
    said = "; ".join(
        f"with {count:,}, {resource.name} ({percent(resource.at(count))})"
        for count, resource in fullest.items()
    )
    unknown = [resource.name for resource in found if resource.use is None]
    lines = [
        f"Under policy {cell['policy']}, guided {cell['guided']:g}, load {cell['load']:g}, of what was measured the "
        f"fullest is: {said}. {_first_full(found)}",
        "",
        bottleneck_table(found, COUNTS),
    ]
    if unknown:
        lines += ["", f"Not measured, and so not compared: {', '.join(unknown)} (`--costs`, see below)."]
    return "\n".join(lines)


def _assumed(findings: Findings) -> str:
    """Machines by their data sheets, under the same users and policies."""
    found = findings.assumed
    if found is None or found.measured is None:
        return "*Nothing is assumed here:* `--assumed` was not given."
    errors, machine = found.measured.errors(), str(found.measured.about["machine"])
    return "\n".join(
        [
            f"{machine[0].upper()}{machine[1:]}. {_made(found, 'measured.json')}",
            f"Microseconds, which the sum's form follows within {percent(errors.p95)} (95th percentile):",
            "",
            costs_table(found.measured),
            "",
            _sweep(found),
            "",
            _bottlenecks(replace(found, central=findings.central)),
        ]
    )


def _first_full(found: Sequence[Resource]) -> str:
    """What more replicas fill first."""
    full = [(most, resource.name) for resource in found if (most := resource.most()) is not None]
    most, name = min(full)
    if not most:
        return f"With one replica {name} is full already."
    if math.isinf(most):
        return "More replicas fill nothing of it."
    return f"The first to be full as replicas are added is {name}: {most:,.0f} are the most that it has room for."


def _made(findings: Findings, file: str) -> str:
    command = findings.commands.get(file)
    return f"`{command}`:" if command else ""


def _missing(file: str) -> str:
    return (
        f"*Not measured yet: there is no {file}.* On an otherwise idle machine this makes it and writes this document anew:\n\n"
        "```\ngenarm simulate all --work benchmarks/results/scale --docs docs\n```"
    )


def _loaded(cells: Sequence[Mapping[str, Any]]) -> tuple[str, int]:
    """The policy and the number of replicas that were simulated under most loads and shares; of equals the last."""
    groups: dict[tuple[str, int], int] = {}
    for cell in cells:
        key = (str(cell["policy"]), int(cell["replicas"]))
        groups[key] = groups.get(key, 0) + 1
    most = max(groups.values())
    return [key for key, count in groups.items() if count == most][-1]


def _fullest(cells: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Where most tokens were written for each replica."""
    return max(cells, key=lambda cell: float(cell["throughput"]) / int(cell["replicas"]))
