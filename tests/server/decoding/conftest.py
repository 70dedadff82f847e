"""A roster with every role in it, and requests to its methods."""

from collections.abc import Callable
from typing import Any

import pytest

from server.decoding import Guidance, Roster, initial_preferences, method_named, read_parameters
from server.decoding.roster import Conditioned, Policy, Reward, Scorer

ROSTER = Roster(
    rewards=(Reward("arm", 0.5), Reward("pair", 0.75, "pair.reference")),
    policies=(Policy("safe", "safe", "base"), Policy("kind", "kind", "kind.reference")),
    scorers=(Scorer("whole", "responses"), Scorer("other", "responses"), Scorer("prefix", "prefixes")),
    conditioned=Conditioned("parm", ("helpful", "harmless")),
    negative=True,
)


@pytest.fixture(scope="session")
def roster() -> Roster:
    return ROSTER


@pytest.fixture(scope="session")
def guide() -> Callable[..., Guidance]:
    """``guide("dera", {"arm": 1}, policy="safe")``: the guidance of such a request to ``ROSTER``, or another ``roster``."""

    def make(
        name: str,
        preferences: dict[str, float] | None = None,
        *,
        roster: Roster = ROSTER,
        preset: dict[str, float] | None = None,
        **given: Any,
    ) -> Guidance:
        method = method_named(name, roster)
        parameters = read_parameters(method, given)
        chosen = initial_preferences(method, parameters, roster, given=preferences, preset=preset)
        return Guidance(method, parameters, chosen, roster)

    return make


@pytest.fixture(scope="session")
def mix(guide: Callable[..., Guidance]) -> Callable[..., dict[str, float]]:
    """As ``guide``: the members that are weighted in, by weight."""

    def make(*args: Any, **given: Any) -> dict[str, float]:
        row = guide(*args, **given).row
        assert row is not None
        return {name: weight for name, weight in row.mix.items() if weight}

    return make
