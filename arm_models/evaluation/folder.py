"""A sweep on disk: what was asked, every answer so far, and what each run of answering cost.

sweep.json      the plan and its digest
answers.jsonl   one answer per line, in the order in which they were finished
runs.jsonl      one line per run: seconds, tokens, forwards
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from arm_models.errors import UserError
from arm_models.evaluation.answers import Answer, Answering, Cell, Cost, SweepPlan
from arm_models.evaluation.journal import Journal
from arm_models.evaluation.settings import Setting
from arm_models.whole_file import write_whole

SWEEP_JSON = "sweep.json"


class SweepFolder:
    """The answers of one plan. ``begin`` or ``open`` make one."""

    def __init__(self, path: Path, plan: Mapping[str, Any]) -> None:
        self.path = path
        self.plan = plan
        self._answers = Journal(path / "answers.jsonl")
        self._runs = Journal(path / "runs.jsonl")
        self.answers = {answer.key: answer for answer in (Answer(**record) for record in self._answers)}

    @classmethod
    def begin(cls, path: Path, plan: SweepPlan) -> SweepFolder:
        """A fresh folder for ``plan``, or the one that a stopped run of the same plan left.

        Raises ``UserError`` where ``path`` holds a sweep of another plan or cannot be written.
        """
        record = path / SWEEP_JSON
        if record.is_file():
            if _read(record).get("digest") != plan.digest:
                raise UserError(
                    f"{path}: holds a sweep of other settings; remove it or choose another folder"
                )
            return cls(path, plan.as_json())
        try:
            write_whole(record, json.dumps({"digest": plan.digest, **plan.as_json()}, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        return cls(path, plan.as_json())

    @classmethod
    def open(cls, path: Path) -> SweepFolder:
        """A sweep that was made before; raises ``UserError`` where there is none."""
        if not (path / SWEEP_JSON).is_file():
            raise UserError(
                f"{path}: holds no {SWEEP_JSON}; make a sweep with `genarm sweep --output {path}`"
            )
        return cls(path, _read(path / SWEEP_JSON))

    @property
    def settings(self) -> list[Setting]:
        """The settings in the order of the plan."""
        return [Setting(**entry) for entry in self.plan["settings"]]

    @property
    def prompts(self) -> int:
        """How many prompts every setting answers."""
        source = self.plan["prompts"]
        return int(source.get("demo", source)["prompts"])

    @property
    def costs(self) -> list[Cost]:
        """One for each run of answering."""
        return [Cost(**record) for record in self._runs]

    def missing(self, plan: SweepPlan) -> list[Cell]:
        """The cells of ``plan`` that have no answer yet."""
        return [
            cell for cell in plan.cells() if (cell.setting.name, cell.prompt, cell.sample) not in self.answers
        ]

    def fill(self, plan: SweepPlan, answering: Answering, tick: Callable[[], object] = lambda: None) -> None:
        """Answer what is missing; every answer is on disk before ``tick`` is called."""

        def done(answer: Answer) -> None:
            self._answers.append(asdict(answer))
            self.answers[answer.key] = answer
            tick()

        cells = self.missing(plan)
        if cells:
            self._runs.append(asdict(answering(cells, done)))

    def of(self, setting: str) -> list[list[Answer]]:
        """A setting's answers, by prompt and sample; raises ``UserError`` where some are missing."""
        samples = int(self.plan["samples"])
        try:
            return [
                [self.answers[setting, prompt, sample] for sample in range(samples)]
                for prompt in range(self.prompts)
            ]
        except KeyError:
            raise UserError(
                f"{self.path}: the sweep is not complete; run `genarm sweep` with the same options to go on"
            ) from None


def _read(record: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{record}: not a sweep's record") from None
    return content
