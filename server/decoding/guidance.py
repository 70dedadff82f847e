"""How one request is guided: a method, its parameters, and the preferences in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from server.decoding.method import LinearParameters, Method, Offered, Parameters
from server.decoding.roster import Roster
from server.decoding.row import BASE, Row
from server.decoding.search.method import SearchMethod
from server.decoding.search.task import Roles
from server.decoding.weighed import Weighed
from server.errors import InvalidRequest, clip, known


@dataclass(frozen=True)
class Guidance:
    """Preferences by name (every name of the method) and how the method turns them into a row."""

    method: Offered
    parameters: Parameters
    preferences: Mapping[str, float]
    roster: Roster

    @property
    def beta(self) -> float:
        """What every α is divided by."""
        return self.parameters.beta

    @property
    def max_kl(self) -> float | None:
        """Nats that a token's KL(guided‖base) may reach; None is no bound."""
        return self.parameters.max_kl if isinstance(self.parameters, LinearParameters) else None

    @cached_property
    def row(self) -> Row | None:
        """What the engine is to do; None where the method is no row of a batch. Raises InvalidRequest when the method
        refuses.
        """
        if not isinstance(self.method, Method):
            return None
        return self.method.row(self.preferences, self.parameters, self.roster)

    @cached_property
    def roles(self) -> Roles | None:
        """Who draws and who scores in a search; None where the method is none. Raises InvalidRequest when it refuses."""
        if not isinstance(self.method, SearchMethod):
            return None
        return self.method.roles(self.preferences, self.parameters, self.roster)

    @property
    def weighed(self) -> Weighed:
        """What the preferences come to, by name."""
        return self.parameters.weighed(self.preferences, self.roster)

    @property
    def members(self) -> frozenset[str]:
        """The members that may be weighted in while the request runs, and the base, which places its tokens."""
        if self.roles is not None:
            return frozenset(self.roles.members)
        if self.row is None:
            return frozenset(self.roster.members)
        return self.row.members | {BASE}

    @property
    def own_parameters(self) -> dict[str, Any]:
        """What the request set of the method's own parameters, as it is written in JSON."""
        return self.parameters.model_dump(by_alias=True, exclude_defaults=True, exclude={"beta", "max_kl"})

    def changed(self, preferences: Mapping[str, float] | None, beta: float | None) -> Guidance:
        """The same method under new preferences and/or a new β.

        Raises:
            InvalidRequest: the method refuses, or what cannot change in mid-answer would have to.
        """
        given = {} if beta is None else {"beta": beta}
        before = self.parameters.model_dump(by_alias=True, exclude_unset=True)
        parameters = read_parameters(self.method, {**before, **given})
        chosen = self.preferences if preferences is None else preferences
        guidance = replace(self, parameters=parameters, preferences=chosen)
        if _fixed(guidance.row) != _fixed(self.row):
            raise InvalidRequest(
                f"These preferences make '{self.method.name}' another distribution than weights alone can change to.",
                param="preferences",
            )
        return guidance


def _fixed(row: Row | None) -> tuple[object, ...]:
    """What of a row holds as long as the request runs."""
    if row is None:
        return (None,)
    return row.power, row.negative, row.candidates and row.candidates.k


def read_parameters(method: Offered, given: Mapping[str, Any]) -> Parameters:
    """Checks a method's own keys of ``guidance``.

    Raises:
        InvalidRequest: names the key, e.g. ``guidance.normalize``.
    """
    try:
        return method.Parameters.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = f"guidance.{clip(first['loc'][0])}" if first["loc"] else "guidance"
        if first["type"] == "extra_forbidden":
            own = (field.alias or name for name, field in method.Parameters.model_fields.items())
            fields = known(("method", "report", *own))
            raise InvalidRequest(
                f"Unknown field '{param}' for method '{method.name}' (known: {fields}).", param=param
            ) from None
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidRequest(f"Invalid '{param}': {message}.", param=param) from None


def read_preferences(method: Offered, given: Mapping[str, float], roster: Roster) -> dict[str, float]:
    """A weight for every name of the method; a name left out is off.

    Raises:
        InvalidRequest: a name that the method does not take; those it does are listed.
    """
    names = method.names(roster)
    for name in given:
        if name not in names:
            raise InvalidRequest(
                f"Unknown preference '{clip(name)}' for method '{method.name}' (known: {known(names)}).",
                param=f"preferences.{clip(name)}",
            )
    return {name: float(given.get(name, 0.0)) for name in names}


def initial_preferences(
    method: Offered,
    parameters: Parameters,
    roster: Roster,
    *,
    given: Mapping[str, float] | None,
    preset: Mapping[str, float] | None,
) -> dict[str, float]:
    """A request's own preferences; or else the method's defaults, in which a preset replaces the weights of all rewards.

    Raises:
        InvalidRequest: a name that the method does not take, or weights given twice.
    """
    if given is not None:
        for field in method.Parameters.stand_ins:
            if field in parameters.model_fields_set:
                raise InvalidRequest(
                    f"'preferences' and 'guidance.{field}' give the same weights; send one of them.",
                    param=f"guidance.{field}",
                )
        return read_preferences(method, given, roster)
    weights = dict(method.defaults(parameters, roster))
    if preset is not None:
        rewards = {reward.name for reward in roster.rewards} & set(method.names(roster))
        weights.update({name: preset.get(name, 0.0) for name in rewards})
    return {name: float(weights.get(name, 0.0)) for name in method.names(roster)}
