"""GET, PATCH and DELETE of a running request."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.api.schema.common import Answer, Body, Change, ChoiceChange, Preferences


class ChangedGuidance(Body):
    """The part of ``guidance`` that a running request can change."""

    beta: Annotated[float, Field(gt=0)] | None = None


class ChangeRequest(Body):
    """PATCH of a running request. ``preferences`` replaces them whole."""

    preferences: Preferences | None = None
    guidance: ChangedGuidance | None = None


class ChoiceState(Answer):
    """One choice of a request under way."""

    index: int
    tokens: int
    finish_reason: Literal["stop", "length"] | None


class RunningState(Answer):
    """A request under way: the weights now, tokens so far of all choices, and of each where there are
    several. ``progress``: where a search stands; its tokens are there only in the end.
    """

    id: str
    object: Literal["chat.completion.state", "text_completion.state"]
    created: int
    model: str
    status: Literal["queued", "running"]
    tokens: int
    choices: list[ChoiceState] | None = None
    method: str
    preferences: dict[str, float]
    beta: float
    changes: list[Change]
    progress: str | None = None


class Changed(Answer):
    """The answer to a PATCH; as ``Change``."""

    id: str
    object: Literal["chat.completion.change", "text_completion.change"]
    at_token: int
    choices: list[ChoiceChange] | None = None
    preferences: dict[str, float]
    beta: float


class Cancelled(Answer):
    """The answer to a DELETE."""

    id: str
    object: Literal["chat.completion.deleted", "text_completion.deleted"]
    deleted: Literal[True]
