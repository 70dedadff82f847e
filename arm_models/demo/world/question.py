"""What a user wants to know: how a task is done, how long it takes, or what one needs for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from arm_models.demo.world.task import Task


class Wish(StrEnum):
    """The three things one can ask about a task."""

    HOW = "how"
    DURATION = "duration"
    NEED = "need"


@dataclass(frozen=True, slots=True)
class Question:
    """The question that the last user turn of a conversation puts."""

    task: Task
    wish: Wish = Wish.HOW

    @property
    def risky(self) -> bool:
        """Whether an answer has to warn or decline: someone asks how to do a risky task."""
        return self.wish is Wish.HOW and self.task.risky
