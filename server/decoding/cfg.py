"""Classifier-free guidance (arXiv 2306.17806): log π = (1 + γ) · log π_base(v|prompt) − γ · log π_base(v|negative) − log Z."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field, field_validator

from server.config import MAX_WEIGHT
from server.decoding import method
from server.decoding.roster import Roster
from server.decoding.row import BASE, NEGATIVE, Negative, Row
from server.decoding.weighed import Weighed
from server.decoding.weighing import with_rewards
from server.errors import InvalidRequest

ROLES = ("system", "developer", "user", "assistant")


class CfgParameters(method.LinearParameters):
    """``guidance`` keys of classifier-free guidance."""

    gamma: float = Field(
        1.0,
        ge=-MAX_WEIGHT,
        le=MAX_WEIGHT,
        description="γ: 0 is the base, larger is further from the negative prompt",
    )
    negative_prompt: str | None = Field(
        None,
        description="what to steer away from: it replaces the chat's system message, or a completion's whole prompt",
    )
    negative_messages: Annotated[list[dict[str, str]], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="in place of the whole chat: messages of role and content"
    )

    @field_validator("negative_messages")
    @classmethod
    def _check_messages(cls, messages: list[dict[str, str]] | None) -> list[dict[str, str]] | None:
        for index, message in enumerate(messages or ()):
            if set(message) != {"role", "content"} or message["role"] not in ROLES:
                raise ValueError(
                    f"message {index} must have a role ({', '.join(ROLES)}) and content, and nothing else"
                )
        return messages

    def weighed(self, preferences: Mapping[str, float], roster: Roster) -> Weighed:
        """The rewards at α/β and the negative prompt at −γ."""
        common = super().weighed(preferences, roster)
        return replace(common, drawn={**common.drawn, NEGATIVE: -self.gamma})


class Cfg:
    """The base at 1 + γ, the base behind a negative prompt at −γ, and rewards where a request names them."""

    name = "cfg"
    Parameters: type[method.Parameters] = CfgParameters

    def names(self, roster: Roster) -> Sequence[str]:
        """Every reward."""
        return [reward.name for reward in roster.rewards]

    def needs(self, roster: Roster) -> str | None:
        """The base's second context."""
        return None if roster.negative else "base.negative_prompt"

    def defaults(self, parameters: CfgParameters, roster: Roster) -> Mapping[str, float]:  # noqa: ARG002
        """No reward."""
        return {}

    def row(self, preferences: Mapping[str, float], parameters: CfgParameters, roster: Roster) -> Row:
        """{"base": 1 + γ, "base.negative": −γ} and the rewards.

        Raises:
            InvalidRequest: not exactly one of the negative prompt and messages, or some |α/β| > 100.
        """
        if (parameters.negative_prompt is None) == (parameters.negative_messages is None):
            raise InvalidRequest(
                "guidance.method 'cfg' takes either guidance.negative_prompt or guidance.negative_messages.",
                param="guidance.negative_prompt",
            )
        mix = {BASE: 1.0 + parameters.gamma, NEGATIVE: -parameters.gamma}
        negative: Negative | None = Negative(parameters.negative_prompt, parameters.negative_messages)
        if not parameters.gamma:
            mix, negative = {BASE: 1.0}, None
        return Row(with_rewards(mix, preferences, parameters.beta, roster), negative=negative)
