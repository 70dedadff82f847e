"""What a sweep asks and gets: cells of (setting, prompt, sample), their answers, and what answering cost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from arm_models.evaluation.prompts import Messages, PromptSet
from arm_models.evaluation.settings import Setting


@dataclass(frozen=True)
class Cell:
    """One answer to make. ``seed``: the same for a prompt's sample under every setting, so that settings differ by what they are
    and not by luck alone."""

    setting: Setting
    prompt: int
    sample: int
    messages: Messages
    seed: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        tokens: of the text, the end-of-text token included.
        kl: Σ KL(guided‖base) over them in nats; None where it is not known.
        generated: tokens that were drawn for it, those of texts that a search did not choose included; None: those of its own.
    """

    setting: str
    prompt: int
    sample: int
    text: str
    tokens: int
    kl: float | None
    finish_reason: str
    generated: int | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        """Which cell it belongs to."""
        return self.setting, self.prompt, self.sample


@dataclass(frozen=True)
class Cost:
    """What one run of answering took.

    Attributes:
        seconds: of the clock, loading left out.
        answers, tokens: that it made; of a search, the tokens of the answers it chose.
        forwards: by member, forwards it had a part in; None behind a URL.
        computed: by member, tokens it computed, prompts among them; None behind a URL.
    """

    seconds: float
    answers: int
    tokens: int
    forwards: Mapping[str, int] | None = None
    computed: Mapping[str, int] | None = None


class Answering(Protocol):
    """Answers cells, in whatever order, each told to ``done`` as soon as it is whole."""

    def __call__(self, cells: Sequence[Cell], done: Callable[[Answer], None]) -> Cost:
        """Answer all of ``cells``. Raises ``UserError`` for a setting that this deployment refuses."""
        ...


@dataclass(frozen=True)
class SweepPlan:
    """Everything that decides a sweep's answers, apart from the models."""

    settings: Sequence[Setting]
    prompts: PromptSet
    answered_by: Mapping[str, Any]
    samples: int = 1
    seed: int = 0
    temperature: float = 1.0
    max_tokens: int = 160

    def as_json(self) -> dict[str, Any]:
        """As a sweep's file holds it."""
        return {
            "settings": [setting.as_json() for setting in self.settings],
            "prompts": dict(self.prompts.source),
            "answered_by": dict(self.answered_by),
            "samples": self.samples,
            "seed": self.seed,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }

    @property
    def digest(self) -> str:
        """Changes with anything that decides the answers."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()

    def cells(self) -> list[Cell]:
        """All answers to make, a prompt's under every setting side by side: what they share is then read once."""
        return [
            Cell(setting, number, sample, messages, answer_seed(self.seed, number, sample))
            for number, messages in enumerate(self.prompts.messages)
            for sample in range(self.samples)
            for setting in self.settings
        ]


def answer_seed(seed: int, prompt: int, sample: int = 0) -> int:
    """The seed of a draw, the same under every setting."""
    return (seed * 1_000_003 + prompt) + sample * 1_000_000_007
