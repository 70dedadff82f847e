"""What a decoding method is: a name, parameters of its own, and how preferences become one row of member
weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field


class Parameters(BaseModel):
    """A method's part of ``guidance``; subclasses add fields. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    beta: float = Field(1.0, gt=0, description="divides every preference α")
    max_kl: float | None = Field(
        None,
        ge=0,
        description="nats that KL(guided‖base) of a token may reach; beyond it its weights are scaled down",
    )


class Method(Protocol):
    """A way to turn preferences into the mix.

    To add one, add a file and name it in ``server.decoding.METHODS``.
    """

    name: str
    Parameters: type[Parameters]

    def mix(self, preferences: Mapping[str, float], parameters: Any) -> dict[str, float]:
        """Weight of each member's logits by member name, "base" included; 0 is off.

        Raises:
            InvalidRequest: these preferences and parameters make no distribution.
        """


def described(method: Method) -> dict[str, Any]:
    """A method as /v1/preferences lists it: its name and a JSON schema for each of its parameters."""
    schema = method.Parameters.model_json_schema()["properties"]
    parameters = {
        name: {key: value for key, value in entry.items() if key != "title"} for name, entry in schema.items()
    }
    return {"name": method.name, "parameters": parameters}
