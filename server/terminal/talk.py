"""A conversation, and what its next request will say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from server.terminal.weights import Weights


@dataclass
class Talk:
    """What was said so far and under which settings it goes on."""

    model: str
    weights: Weights
    presets: Mapping[str, Mapping[str, float]]
    seed: int | None = None
    max_tokens: int | None = None
    messages: list[dict[str, str]] = field(default_factory=list)

    def body(self, text: str) -> dict[str, Any]:
        """The request that says ``text`` next."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [*self.messages, {"role": "user", "content": text}],
            "stream": True,
            "preferences": self.weights.values,
            "guidance": {"report": "tokens"},
        }
        options = {"seed": self.seed, "max_tokens": self.max_tokens}
        return body | {name: value for name, value in options.items() if value is not None}

    def said(self, text: str, answer: str) -> None:
        """``text`` was answered."""
        self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
