"""The built page, file by file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

STATIC = Path(__file__).parent / "static"

_INDEX = "index.html"
_MEDIA_TYPES = MappingProxyType(
    {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
)


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page. ``lasting`` ones have their content's hash in their name and never change."""

    content: bytes
    media_type: str
    lasting: bool


def read_assets(folder: Path = STATIC) -> Mapping[str, Asset]:
    """By the path of its URL; the page itself is ``/``. Files of other kinds are no part of it."""
    found = {}
    for file in sorted(folder.rglob("*")):
        media_type = _MEDIA_TYPES.get(file.suffix)
        if media_type is None:
            continue
        name = file.relative_to(folder).as_posix()
        asset = Asset(file.read_bytes(), media_type, lasting=name != _INDEX)
        found["/" if name == _INDEX else f"/{name}"] = asset
    return MappingProxyType(found)
