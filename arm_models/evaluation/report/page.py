"""A report as one HTML file that needs nothing else: tables, and pictures inside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

Table = tuple[Sequence[str], Sequence[Sequence[str]]]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
body { color: #1c2126; background: #fff }
table { border-collapse: collapse; font-size: 13px; margin: 1rem 0 }
th, td { border: 1px solid #d0d5da; padding: .25rem .5rem; text-align: left }
th { background: #f3f5f7 }
.wide { overflow-x: auto }
figure { margin: 1rem 0 }
img { max-width: 100% }
@media (prefers-color-scheme: dark) {
  body { background: #16191c; color: #e4e7ea } th { background: #24292e }
  th, td { border-color: #3a4148 } img { background: #fff }
}
"""


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it: lines of text, a table, pictures (PNG) by their captions."""

    title: str
    text: Sequence[str] = ()
    table: Table | None = None
    pictures: Mapping[str, bytes] | None = None


def page(title: str, sections: Sequence[Section]) -> str:
    """The whole file."""
    body = "\n".join(_section(section) for section in sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>", *(f"<p>{escape(line)}</p>" for line in section.text)]
    if section.table is not None:
        header, rows = section.table
        lines = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in header)}</tr>"]
        lines += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
        parts.append(f'<div class="wide"><table>{"".join(lines)}</table></div>')
    for caption, picture in (section.pictures or {}).items():
        data = base64.b64encode(picture).decode("ascii")
        parts.append(
            f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    return "\n".join(parts)
