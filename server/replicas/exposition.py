"""The metrics of several replicas as one text in Prometheus' format 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.utils import floatToGoString

LABEL = "replica"

_MEANS = ("_perc", "_ratio")
"""Endings of metrics that are shares: of these the mean is told, not the sum."""

_TIMES = ("_created", "_start_time_seconds")
"""Endings of metrics that are moments: of these the first is told."""


@dataclass
class _Family:
    """One metric: what is said about it, and its series with the values found for each."""

    about: list[str] = field(default_factory=list)
    series: dict[str, list[float]] = field(default_factory=dict)


def labelled(texts: Mapping[str, str]) -> str:
    """Every series of every replica (name → its text), with the replica's name as a label."""
    return _written(_families(texts.items(), label=True))


def summed(texts: Mapping[str, str]) -> str:
    """Every series added up over the replicas; of shares the mean, of moments the first. A replica that goes takes its counts
    along.
    """
    return _written(_families(texts.items(), label=False))


def _families(texts: Iterable[tuple[str, str]], *, label: bool) -> dict[str, _Family]:
    families: dict[str, _Family] = {}
    for replica, text in texts:
        family = _Family()
        for line in text.splitlines():
            if line.startswith("# "):
                word, name = line.split(" ", 3)[1:3]
                family = families.setdefault(name, _Family())
                if all(not about.startswith(f"# {word} ") for about in family.about):
                    family.about.append(line)
            elif line:
                series, _, value = line.rpartition(" ")
                named = _with_label(series, replica) if label else series
                family.series.setdefault(named, []).append(float(value))
    return families


def _with_label(series: str, replica: str) -> str:
    own = f'{LABEL}="{replica}"'
    return f"{series[:-1]},{own}}}" if series.endswith("}") else f"{series}{{{own}}}"


def _written(families: Mapping[str, _Family]) -> str:
    lines: list[str] = []
    for name, family in families.items():
        lines += family.about
        for series, values in family.series.items():
            number: str = floatToGoString(_together(name, values))  # type: ignore[no-untyped-call]
            lines.append(f"{series} {number}")
    return "".join(f"{line}\n" for line in lines)


def _together(name: str, values: Sequence[float]) -> float:
    if name.endswith(_TIMES):
        return min(values)
    return sum(values) / (len(values) if name.endswith(_MEANS) else 1)
