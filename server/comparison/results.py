"""From answers to rows: each sweep scored by the demo's oracles, its training seeds one by one or together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from arm_models.evaluation.answers import Answer
from arm_models.evaluation.folder import SweepFolder
from arm_models.evaluation.prompts import PromptSet, demo_prompts
from arm_models.evaluation.resampling import means
from arm_models.evaluation.scores.oracle import all_oracles
from arm_models.evaluation.settings import Setting
from arm_models.evaluation.summary import Row
from server.comparison.sweeps import HELPFUL, Sweeps

Rows = Mapping[str, Row]
"""By setting's name, in the order of the sweep."""


@dataclass(frozen=True)
class Results:
    """What the sweeps of a comparison came to; every sweep must have been answered."""

    sweeps: Sweeps

    def rows(self, name: str) -> Rows:
        """One sweep."""
        return _rows([self.sweeps.folder(name)])

    def seeds(self, name: str) -> list[Rows]:
        """A question's sweep for each training seed."""
        return [self.rows(f"{name}-{seed}") for seed in self.sweeps.plan.seeds]

    def together(self, name: str) -> Rows:
        """The same with the seeds' answers as samples of each prompt: means are over seeds, intervals over prompts."""
        return _rows([self.sweeps.folder(f"{name}-{seed}") for seed in self.sweeps.plan.seeds])

    @cached_property
    def curves(self) -> Rows:
        """Reward against KL, all seeds together."""
        return self.together("curves")

    @cached_property
    def chosen(self) -> Mapping[str, str]:
        """By curve, the setting with the most helpful answers to the validation prompts, all seeds together."""
        validation = self.together("validation")
        return {
            curve: max(own, key=lambda row: mean(row, HELPFUL)).setting.name
            for curve, own in curves_of(validation).items()
            if own
        }


def curves_of(rows: Rows) -> dict[str, list[Row]]:
    """A sweep's rows by what they vary: the members that are weighted, or the policy; the base alone left out."""
    found: dict[str, list[Row]] = {}
    for row in rows.values():
        if row.setting.name != "base":
            found.setdefault(curve_name(row.setting), []).append(row)
    return found


def curve_name(setting: Setting) -> str:
    """What a setting is a point of, e.g. "genarm helpful-arm"."""
    named = list(setting.preferences or ()) or [str(setting.parameters.get("policy", ""))]
    return " ".join([setting.method, *named]).strip()


def mean(row: Row, score: str) -> float:
    """The mean score over the prompts that it applies to."""
    return float(means(np.array(row.scores[score], dtype=np.float64)))


def _rows(folders: Sequence[SweepFolder]) -> Rows:
    first = folders[0]
    demo = first.plan["prompts"]["demo"]
    prompts: PromptSet = demo_prompts(int(demo["prompts"]), int(demo["seed"]))
    assert prompts.conversations is not None
    rows = {}
    for setting in first.settings:
        answers = _side_by_side([folder.of(setting.name) for folder in folders])
        texts = [[answer.text for answer in samples] for samples in answers]
        rows[setting.name] = Row(setting, answers, all_oracles(prompts.conversations, texts))
    return rows


def _side_by_side(answers: Sequence[Sequence[Sequence[Answer]]]) -> list[list[Answer]]:
    """By prompt, the samples of every folder."""
    return [[one for samples in each for one in samples] for each in zip(*answers, strict=True)]
