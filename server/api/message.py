"""What an assistant's message says, made from its text as it comes."""

from __future__ import annotations

from typing import Literal

from server.api import schema
from server.api.choice import FinishReason

Reason = FinishReason | Literal["tool_calls"]
"""Why a message is over: as the engine has it, or because it calls tools."""


class Message:
    """The message of one choice. Whatever a stream sends of it in deltas is what ``whole`` has."""

    def __init__(self) -> None:
        self._content: list[str] = []

    def push(self, text: str) -> schema.Delta | None:
        """What ``text`` adds to the message; None for nothing."""
        if not text:
            return None
        self._content.append(text)
        return schema.Delta(content=text)

    def end(self, reason: FinishReason) -> tuple[schema.Delta, Reason]:
        """What the end of the text adds, and why the message is over."""
        return schema.Delta(), reason

    def whole(self) -> schema.AnswerMessage:
        """The message so far."""
        return schema.AnswerMessage(role="assistant", content="".join(self._content), refusal=None)
