"""What has been found so far, kept in a file from which a stopped run goes on."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arm_models.errors import UserError
from arm_models.whole_file import write_whole
from server.bench.result import Result, Row


@dataclass(frozen=True, slots=True)
class Finding:
    """A result of a scenario, as it is printed and as it is kept."""

    scenario: str
    row: Row
    reached: bool
    record: Mapping[str, Any]

    @classmethod
    def of(cls, scenario: str, result: Result) -> "Finding":
        """What ``result`` says."""
        return cls(scenario, result.row(), result.reached, result.record())

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        return {
            **self.record,
            "scenario": self.scenario,
            "row": list(self.row),
            "reached": self.reached,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Finding":
        """From the file."""
        record = {key: value for key, value in kept.items() if key not in ("scenario", "row", "reached")}
        return cls(kept["scenario"], Row(*kept["row"]), kept["reached"], record)


class Findings:
    """The findings of one command.

    Args:
        path: the file they are kept in, written anew whenever a scenario has been finished; None keeps nothing.
        about: what stands in the file before them: the command, the settings, the machine.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any]) -> None:
        self.all: list[Finding] = []
        self._path = path
        self._about = about

    def resume(self) -> None:
        """Go on from what the file has, if it is there.

        Raises:
            UserError: it cannot be read, is no file of findings, or they were made with other settings.
        """
        if self._path is None or not self._path.exists():
            return
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            settings, found = kept["settings"], [Finding.from_json(one) for one in kept["results"]]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"--resume: {self._path} is no file that genarm bench wrote") from None
        for name, value in self._about["settings"].items():
            if settings.get(name) != value:
                raise UserError(
                    f"--resume: {self._path} was measured with {name} {settings.get(name)}, not {value}"
                )
        self.all = found

    def has(self, scenario: str) -> bool:
        """Whether a scenario has been finished."""
        return any(finding.scenario == scenario for finding in self.all)

    def of(self, scenarios: Iterable[str]) -> list[Finding]:
        """What these scenarios found, in their order."""
        return [finding for name in scenarios for finding in self.all if finding.scenario == name]

    def add(self, scenario: str, results: Sequence[Result]) -> None:
        """Keep what a scenario found. The file is written beside and renamed: it is whole or not there."""
        self.all += [Finding.of(scenario, result) for result in results]
        if self._path is None:
            return
        record = {**self._about, "results": [finding.as_json() for finding in self.all]}
        write_whole(self._path, json.dumps(record, indent=2) + "\n")
