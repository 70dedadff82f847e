"""A diagnosis as text for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from server.doctor.capacity import Capacity, Resident
from server.doctor.diagnosis import Diagnosis, gibibytes
from server.doctor.model import BYTES, DTYPES

MARKS = {"ok": " ", "warning": "!", "problem": "✗"}


def as_json(diagnosis: Diagnosis) -> str:
    """One object; counts are of bytes, tokens and parameters."""
    machine = diagnosis.machine
    told = {
        "servable": not diagnosis.problems,
        "checks": [{"name": one.name, "level": one.level, "detail": one.detail} for one in diagnosis.checks],
        "machine": {
            "cores": machine.cores,
            "threads": machine.threads,
            "devices": [
                {"name": one.name, "title": one.title, "total": one.total, "free": one.free}
                for one in machine.devices
            ],
        },
        "models": [_model(one) for one in diagnosis.members],
        "devices": [_capacity(one) for one in diagnosis.capacities],
    }
    return json.dumps(told, indent=2)


def as_text(diagnosis: Diagnosis) -> str:
    """Tables, the checks first, the verdict last."""
    machine = diagnosis.machine
    lines = [*_checks(diagnosis), ""]
    lines += [
        f"{one.name}  {one.title}  {gibibytes(one.total)}, free {gibibytes(one.free)}"
        for one in machine.devices
    ]
    if diagnosis.members:
        lines += ["", *_table(_model_rows(diagnosis.members))]
    for one in diagnosis.capacities:
        lines += ["", *_fits(one)]
    return "\n".join([*lines, "", _verdict(diagnosis)])


def _checks(diagnosis: Diagnosis) -> Iterator[str]:
    width = max(len(one.name) for one in diagnosis.checks)
    for one in diagnosis.checks:
        yield f"{MARKS[one.level]} {one.name:<{width}}  {one.detail}"


def _verdict(diagnosis: Diagnosis) -> str:
    problems = diagnosis.problems
    if not problems:
        return "it can be served"
    return "\n".join(["it cannot be served:", *(f"  {one.name}: {one.detail}" for one in problems)])


def _model_rows(members: Sequence[Resident]) -> Iterator[list[str]]:
    yield [
        *("model", "architecture", "parameters", "context", "held as"),
        *(f"{dtype}" for dtype in DTYPES if dtype != "float16"),
        *(f"KV {dtype}" for dtype in BYTES if dtype != "float16"),
    ]
    for one in members:
        facts = one.facts
        yield [
            *(one.name, facts.architecture, f"{facts.values.all:,}", f"{facts.max_length:,}"),
            f"{one.dtype}, {_where(one)}",
            *(gibibytes(facts.values.held_as(dtype)) for dtype in DTYPES if dtype != "float16"),
            *(f"{facts.kv_values * BYTES[dtype]:,} B" for dtype in BYTES if dtype != "float16"),
        ]


def _fits(one: Capacity) -> Iterator[str]:
    yield (
        f"{one.title}: weights {gibibytes(one.weights)}, caches up to {gibibytes(one.cache)} "
        f"({one.cache_tokens:,} tokens for each of {', '.join(one.members)}), and {gibibytes(max(0, one.spare))} left"
    )
    yield from _table(
        [["tokens", "contexts that fit"], *([f"{n:,}", f"{of:,}"] for n, of in one.fits.items())]
    )


def _where(one: Resident) -> str:
    if one.place == "split":
        return f"{one.device} in {one.parts} parts"
    if one.place == "all":
        return f"{one.device} on every rank"
    return one.device if one.place == 0 else f"{one.device} on rank {one.place}"


def _table(rows: Iterator[list[str]] | Sequence[list[str]]) -> list[str]:
    """Columns side by side, the first to the left and the others to the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if place == 0 else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _model(one: Resident) -> dict[str, object]:
    facts = one.facts
    return {
        "name": one.name,
        "folder": str(facts.folder),
        "backbone": None if facts.backbone is None else str(facts.backbone.folder),
        "architecture": facts.architecture,
        "parameters": facts.values.all,
        "max_context": facts.max_length,
        "stored": facts.stored,
        "device": one.device,
        "rank": one.place,
        "dtype": one.dtype,
        "weights_bytes": {dtype: facts.values.held_as(dtype) for dtype in DTYPES},
        "kv_dtype": one.kv_dtype,
        "kv_bytes_per_token": {dtype: facts.kv_values * size for dtype, size in BYTES.items()},
    }


def _capacity(one: Capacity) -> dict[str, object]:
    return {
        "name": one.device.name,
        "rank": one.rank,
        "members": list(one.members),
        "free": one.device.free,
        "weights": one.weights,
        "cache": one.cache,
        "cache_tokens": one.cache_tokens,
        "contexts": [{"tokens": length, "fit": count} for length, count in one.fits.items()],
    }
