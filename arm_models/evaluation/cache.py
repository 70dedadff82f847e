"""Scores that were expensive, kept beside a sweep by what was scored and by whom."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from arm_models.evaluation.journal import Journal


class ScoreCache:
    """JSON values by key, on disk as soon as they are known. One writer at a time."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)
        self._values: dict[str, Any] = {record["key"]: record["value"] for record in self._journal}

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        """The value kept under ``key``; raises ``KeyError`` for none."""
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._values[key] = value
        self._journal.append({"key": key, "value": value})


def key_of(*parts: object) -> str:
    """A key that changes with any of ``parts`` (anything JSON can hold)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
