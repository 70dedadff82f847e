"""Rewards as administrators declare and see them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.api.schema.common import Answer, Body
from server.config import Name, Reference, Weight


class RewardRequest(Body):
    """A reward to be served from now on, as in a deployment's file. What is left out a new one has as there, but ``device`` and
    ``dtype`` as the base; one that replaces another has it as that had.
    """

    name: Name
    model: Annotated[str, Field(min_length=1)]
    description: str | None = None
    default: Weight | None = None
    range: tuple[Weight, Weight] | None = None
    reference: Reference | None = None
    device: Annotated[str, Field(min_length=1)] | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] | None = None
    chat_template: str | None = None


class AdminReward(Answer):
    """A reward as it is declared. ``member`` is what the engine and its metrics call its model, ``rank`` the process that holds
    it, where several share the base.
    """

    object: Literal["reward"]
    name: str
    description: str
    default: float
    range: tuple[float, float]
    model: str
    reference: str | None
    device: str
    dtype: str
    chat_template: str | None
    rank: int | Literal["all"]
    member: str


class ServedReward(AdminReward):
    """The answer to a change: the reward as it is served now, by a server of this fingerprint."""

    system_fingerprint: str


class AdminRewards(Answer):
    """All rewards; ``leaving`` are members that only answers under way still read with."""

    object: Literal["list"]
    data: list[AdminReward]
    leaving: list[str]
    system_fingerprint: str


class RemovedReward(Answer):
    """The answer to a DELETE."""

    object: Literal["reward.deleted"]
    name: str
    deleted: Literal[True]
    system_fingerprint: str
