"""GET, PATCH and DELETE of a running request."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.api.schema.common import Answer, Body, Change, Preferences


class ChangedGuidance(Body):
    """The part of ``guidance`` that a running request can change."""

    beta: Annotated[float, Field(gt=0)] | None = None


class ChangeRequest(Body):
    """PATCH of a running request. ``preferences`` replaces them whole."""

    preferences: Preferences | None = None
    guidance: ChangedGuidance | None = None


class RunningState(Answer):
    """A request under way: the weights now, tokens so far."""

    id: str
    object: Literal["chat.completion.state"]
    created: int
    model: str
    status: Literal["queued", "running"]
    tokens: int
    method: str
    preferences: dict[str, float]
    beta: float
    changes: list[Change]


class Changed(Answer):
    """The answer to a PATCH."""

    id: str
    object: Literal["chat.completion.change"]
    at_token: int
    preferences: dict[str, float]
    beta: float


class Cancelled(Answer):
    """The answer to a DELETE."""

    id: str
    object: Literal["chat.completion.deleted"]
    deleted: Literal[True]
