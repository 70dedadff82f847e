"""What a method means: a request's preferences and ``guidance`` become one row of member weights for the
engine.
"""

from server.decoding.genarm import GenArm
from server.decoding.guidance import Guidance, read_parameters, read_preferences
from server.decoding.method import Method, Parameters, described
from server.errors import InvalidRequest, clip, known

METHODS: tuple[Method, ...] = (GenArm(),)
"""Every method on offer, the default first. Adding one is adding a file and its name here."""


def method_named(name: str) -> Method:
    """The method a request asks for; raises InvalidRequest that lists the known ones."""
    for method in METHODS:
        if method.name == name:
            return method
    names = known(method.name for method in METHODS)
    raise InvalidRequest(f"Unknown guidance.method '{clip(name)}' (known: {names}).", param="guidance.method")


__all__ = [
    "METHODS",
    "Guidance",
    "Method",
    "Parameters",
    "described",
    "method_named",
    "read_parameters",
    "read_preferences",
]
