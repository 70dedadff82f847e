"""Numbers and intervals as a reader sees them."""

from __future__ import annotations

from arm_models.evaluation.bootstrap import Interval


def number(value: float, digits: int = 2) -> str:
    """``value`` with so many digits, a true minus sign, and no -0."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def interval(value: Interval | None, digits: int = 2) -> str:
    """ "0.41 [0.38, 0.44]", or a dash for none."""
    if value is None:
        return "–"
    return f"{number(value.mean, digits)} [{number(value.low, digits)}, {number(value.high, digits)}]"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)
