"""An append-only JSONL file: what is in it survives a stop, a line that was torn by one does not count."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from arm_models.errors import UserError


class Journal:
    """One record per line. Not for two writers at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mend()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every whole record, in the order of writing; raises ``UserError`` for a line that is none."""
        if not self.path.is_file():
            return
        with self.path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    record = json.loads(line)
                except ValueError:
                    record = None
                if not isinstance(record, dict):
                    raise UserError(f"{self.path} line {number}: not a record of a sweep")
                yield record

    def append(self, record: Mapping[str, Any]) -> None:
        """Write ``record`` behind the others; it is on disk for other processes when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _mend(self) -> None:
        """Cut off what a stop in the middle of a line left behind."""
        if not self.path.is_file():
            return
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self.path.open("r+b") as file:
                file.truncate(whole)
