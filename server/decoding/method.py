"""What a decoding method is: a name, parameters of its own, and how preferences become one row of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from server.decoding.roster import Roster
from server.decoding.row import Row
from server.decoding.weighed import Weighed


class Parameters(BaseModel):
    """A method's part of ``guidance``; subclasses add fields. Unknown keys are refused.

    ``stand_ins``: fields that give weights in place of ``preferences``; a request that sends both is refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    stand_ins: ClassVar[tuple[str, ...]] = ()

    beta: float = Field(1.0, gt=0, description="divides every preference α")

    def weighed(self, preferences: Mapping[str, float], roster: Roster) -> Weighed:  # noqa: ARG002
        """What accepted ``preferences`` come to: α/β for each. A method that weighs otherwise says so here, because what
        an operator allows is checked against it.
        """
        return Weighed({name: alpha / self.beta for name, alpha in preferences.items()})


class LinearParameters(Parameters):
    """Of methods whose distance from the base can be bounded by scaling their weights."""

    max_kl: float | None = Field(
        None,
        ge=0,
        description="nats that KL(guided‖base) of a token may reach; beyond it its weights are scaled down",
    )

    def weighed(self, preferences: Mapping[str, float], roster: Roster) -> Weighed:
        """α/β, scaled down where ``max_kl`` is given."""
        return replace(super().weighed(preferences, roster), fades=self.max_kl is not None)


class Offered(Protocol):
    """What all methods have, those that are a row of the batch and those that search over whole responses.

    A method that takes part in a step is a :class:`Method`. To add one, add a file and name it in
    ``server.decoding.METHODS``.
    """

    name: str
    Parameters: type[Parameters]

    def names(self, roster: Roster) -> Sequence[str]:
        """What ``preferences`` may name."""

    def needs(self, roster: Roster) -> str | None:
        """What the deployment lacks for it, naming the section of the configuration; None where it lacks nothing."""

    def defaults(self, parameters: Any, roster: Roster) -> Mapping[str, float]:
        """The preferences that hold where a request gives none; names left out are 0."""


@runtime_checkable
class Method(Offered, Protocol):
    """A way to turn preferences into a row."""

    def row(self, preferences: Mapping[str, float], parameters: Any, roster: Roster) -> Row:
        """What the engine is to do.

        Args:
            preferences: a weight for each of ``names(roster)``.
            parameters: an instance of ``Parameters``.
            roster: lacks nothing of what it ``needs``.

        Raises:
            InvalidRequest: these preferences and parameters make no distribution.
        """


def described(method: Offered, roster: Roster) -> dict[str, Any]:
    """A method as /v1/preferences lists it: its name, a JSON schema for each of its parameters, what its ``preferences``
    may name here, and whether it is available or what it needs.
    """
    schema = method.Parameters.model_json_schema()["properties"]
    parameters = {
        name: {key: value for key, value in entry.items() if key != "title"} for name, entry in schema.items()
    }
    needs = method.needs(roster)
    return {
        "name": method.name,
        "parameters": parameters,
        "preferences": list(method.names(roster)),
        "available": needs is None,
        "needs": needs,
    }
