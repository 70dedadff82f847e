"""Tables for people: in a terminal and, with bars, in a document."""

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, its columns as wide as what stands in them."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(3, *(len(line[place]) for line in lines)) for place in range(len(head))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (lines[0], rule, *lines[1:])
    )


def seconds(value: float | None) -> str:
    """In seconds or milliseconds; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"


def percent(value: float | None) -> str:
    """Of a share; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f} %"
