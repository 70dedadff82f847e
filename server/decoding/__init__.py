"""What a method means: a request's preferences and ``guidance`` become one row of the engine's batch.

row.py, roster.py     what a method asks of the engine; which models a deployment has for which role
method.py             what a method is, and how it is described to clients
guidance.py           a request's method, parameters and preferences, checked
weighing.py, scoring.py   what methods share: weights and mixes; scored candidates
everything else       a method per file
"""

from server.decoding.args import ARGS
from server.decoding.cfg import Cfg
from server.decoding.dera import DeRa
from server.decoding.genarm import GenArm
from server.decoding.guidance import Guidance, initial_preferences, read_parameters, read_preferences
from server.decoding.method import LinearParameters, Method, Offered, Parameters, described
from server.decoding.mod import Mod
from server.decoding.pargs import PARGS
from server.decoding.parm import Parm
from server.decoding.proxy import Proxy
from server.decoding.roster import Roster
from server.decoding.row import BASE, NEGATIVE, Candidates, Negative, Row
from server.decoding.search import SEARCHES
from server.errors import InvalidRequest, clip, known

METHODS: tuple[Offered, ...] = (GenArm(), DeRa(), Proxy(), Mod(), Cfg(), Parm(), ARGS, PARGS, *SEARCHES)
"""Every method there is, the default first. Adding one is adding a file and its name here."""


def method_named(name: str, roster: Roster) -> Offered:
    """The method a request asks for.

    Raises:
        InvalidRequest: there is none of this name, or the deployment lacks what it needs.
    """
    for method in METHODS:
        if method.name == name:
            needs = method.needs(roster)
            if needs is None:
                return method
            raise InvalidRequest(
                f"guidance.method '{name}' is not offered here: the deployment has no {needs}.",
                param="guidance.method",
            )
    names = known(method.name for method in METHODS)
    raise InvalidRequest(f"Unknown guidance.method '{clip(name)}' (known: {names}).", param="guidance.method")


__all__ = [
    "BASE",
    "METHODS",
    "NEGATIVE",
    "Candidates",
    "Guidance",
    "LinearParameters",
    "Method",
    "Negative",
    "Offered",
    "Parameters",
    "Roster",
    "Row",
    "described",
    "initial_preferences",
    "method_named",
    "read_parameters",
    "read_preferences",
]
