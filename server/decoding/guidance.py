"""How one request is guided: a method, its parameters, and the preferences in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from server.decoding.method import Method, Parameters
from server.errors import InvalidRequest, clip, known


@dataclass(frozen=True)
class Guidance:
    """Preferences α by reward name (every reward named) and how a method turns them into the mix."""

    method: Method
    parameters: Parameters
    preferences: Mapping[str, float]

    @property
    def beta(self) -> float:
        """What every α is divided by."""
        return self.parameters.beta

    @property
    def max_kl(self) -> float | None:
        """Nats that a token's KL(guided‖base) may reach; None is no bound."""
        return self.parameters.max_kl

    @cached_property
    def mix(self) -> Mapping[str, float]:
        """Weight of each member's logits. Raises InvalidRequest when the method refuses."""
        return MappingProxyType(self.method.mix(self.preferences, self.parameters))

    def changed(self, preferences: Mapping[str, float] | None, beta: float | None) -> Guidance:
        """The same method under new preferences and/or a new β."""
        given = {} if beta is None else {"beta": beta}
        parameters = read_parameters(self.method, {**self.parameters.model_dump(), **given})
        chosen = self.preferences if preferences is None else preferences
        return replace(self, parameters=parameters, preferences=chosen)


def read_parameters(method: Method, given: Mapping[str, Any]) -> Parameters:
    """Checks a method's own keys of ``guidance``.

    Raises:
        InvalidRequest: names the key, e.g. ``guidance.normalize``.
    """
    try:
        return method.Parameters.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = f"guidance.{clip(first['loc'][0])}"
        if first["type"] == "extra_forbidden":
            fields = known(("method", "report", *method.Parameters.model_fields))
            raise InvalidRequest(
                f"Unknown field '{param}' for method '{method.name}' (known: {fields}).", param=param
            ) from None
        raise InvalidRequest(f"Invalid '{param}': {first['msg']}.", param=param) from None


def read_preferences(given: Mapping[str, float], rewards: tuple[str, ...]) -> dict[str, float]:
    """Every reward's α; a reward that is not named is off.

    Raises:
        InvalidRequest: a name that is no reward; the known ones are listed.
    """
    for name in given:
        if name not in rewards:
            raise InvalidRequest(
                f"Unknown preference '{clip(name)}' (known: {known(rewards)}).",
                param=f"preferences.{clip(name)}",
            )
    return {name: float(given.get(name, 0.0)) for name in rewards}
