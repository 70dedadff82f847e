"""JSON as a grammar: any object, or what a JSON schema asks for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from server.errors import InvalidRequest

MAX_SCHEMA = 64_000
"""Characters of one schema, written compactly."""

MAX_DEPTH = 64
"""Objects and lists within one another in a schema; an object in an object is two."""

MAX_PROPERTIES = 1000
"""Properties in one schema, at all its depths."""

MAX_MULTIPLE = 100_000
"""What the least common multiple of a schema's ``multipleOf`` may be, counted in units of their last decimal place: the
automaton has a state for each.
"""

WRITING = {"whitespace_pattern": " ?", "whitespace_flexible": True, "coerce_one_of": False, "lenient": False}
"""How JSON is written: on one line, with at most one space where white space may be. A model that is free to write more
of it may do nothing else.
"""

DATA = frozenset({"const", "enum", "default", "examples"})
"""Keywords that hold values, not schemas."""

MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""Keywords whose keys are names and whose values are schemas."""


def json_object() -> str:
    """The grammar of any JSON object."""
    return _grammar({"type": "object"})


def json_schema(schema: Mapping[str, Any], param: str) -> str:
    """The grammar of the JSON that ``schema`` describes; whether it compiles is found out by compiling it.

    Raises:
        InvalidRequest: it is over a bound or needs what grammars cannot express; ``param`` is the field it came in.
    """
    check_schema(schema, param)
    return _grammar(schema)


def embedded(schema: Mapping[str, Any]) -> str:
    """``schema`` as part of a larger grammar."""
    return "%json " + _compact({**schema, "x-guidance": WRITING})


def check_schema(schema: Mapping[str, Any], param: str) -> None:
    """Refuses what would be ignored or could not be compiled in bounded time.

    Raises:
        InvalidRequest: as ``json_schema``.
    """
    depth, values = _extent(schema)
    if depth > MAX_DEPTH:
        raise InvalidRequest(f"'{param}' nests deeper than {MAX_DEPTH} levels.", param=param)
    if values > MAX_SCHEMA or len(_compact(schema)) > MAX_SCHEMA:
        raise InvalidRequest(f"'{param}' is larger than {MAX_SCHEMA} characters.", param=param)
    properties, multiples = 0, []
    for part in _schemas(schema):
        _check_part(part, param)
        properties += len(_mapping(part.get("properties")))
        if type(part.get("multipleOf")) in (int, float):
            multiples.append(part["multipleOf"])
    if properties > MAX_PROPERTIES:
        raise InvalidRequest(f"'{param}' has more than {MAX_PROPERTIES} properties.", param=param)
    if _common_multiple(multiples) > MAX_MULTIPLE:
        raise InvalidRequest(
            f"'{param}' uses 'multipleOf' with values too large for this server: their least common multiple may be "
            f"{MAX_MULTIPLE} units of the last decimal place.",
            param=param,
        )


def _check_part(part: Mapping[str, Any], param: str) -> None:
    reference = part.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        raise InvalidRequest(f"'{param}' may only refer to itself ('$ref' beginning with '#').", param=param)
    if "x-guidance" in part:
        raise InvalidRequest(f"'{param}' holds the unsupported keyword 'x-guidance'.", param=param)
    # A grammar cannot tell whether a free key was written before, so a count of keys may be met by writing one twice.
    least, required = part.get("minProperties"), part.get("required")
    named = len(required) if isinstance(required, list | tuple) else 0
    if isinstance(least, int) and least > max(named, 1):
        raise InvalidRequest(
            f"'{param}' holds a 'minProperties' above 1 and above the number of 'required' properties, which is not "
            "supported.",
            param=param,
        )


def _schemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Every object in ``schema`` that is a schema itself."""
    pending = [schema]
    while pending:
        part = pending.pop()
        if isinstance(part, list | tuple):
            pending.extend(part)
        elif isinstance(part, Mapping):
            yield part
            for key, value in part.items():
                if key in MAPS and isinstance(value, Mapping):
                    pending.extend(value.values())
                elif key not in DATA:
                    pending.append(value)


def _extent(value: Any) -> tuple[int, int]:
    """Objects and lists within one another, and values in all of them, counted no further than needed: a value is at
    least a character.
    """
    depth, count, level = 0, 1, [value]
    while level and depth <= MAX_DEPTH and count <= MAX_SCHEMA:
        inner: list[Any] = []
        for part in level:
            if isinstance(part, Mapping):
                inner.extend(part.values())
            elif isinstance(part, list | tuple):
                inner.extend(part)
        level = inner
        depth += bool(level)
        count += len(level)
    return depth, count


def _common_multiple(values: list[int | float]) -> int:
    if not values:
        return 1
    # Tiny and huge values make integers of hundreds of digits; they are over the bound by far.
    if any(abs(value) > MAX_MULTIPLE for value in values):
        return MAX_MULTIPLE + 1
    exact = [abs(Decimal(repr(value))) for value in values if math.isfinite(value) and value]
    places = [max(0, -int(value.normalize().as_tuple().exponent)) for value in exact]
    if any(place > 15 for place in places):
        return MAX_MULTIPLE + 1
    return math.lcm(*(int(value.scaleb(max(places))) for value in exact)) if exact else 1


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _grammar(schema: Mapping[str, Any]) -> str:
    return "%llguidance {}\nstart: " + embedded(schema)


def _compact(value: Any) -> str:
    # Keys keep their order: properties are written in the schema's.
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, default=dict)
