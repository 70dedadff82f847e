import contextlib
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from server.errors import InvalidRequest
from server.structured import TokenMatcher, Vocabulary, check_schema, json_object, json_schema
from server.structured.json_grammar import MAX_DEPTH, MAX_MULTIPLE, MAX_PROPERTIES, MAX_SCHEMA

Compile = Callable[..., Callable[[], TokenMatcher]]
Write = Callable[..., tuple[str, bool]]
Schemas = Callable[[random.Random, int], dict[str, Any]]


def is_valid(schema: dict[str, Any], text: str) -> bool:
    checker = Draft202012Validator.FORMAT_CHECKER
    return Draft202012Validator(schema, format_checker=checker).is_valid(json.loads(text))


@pytest.mark.parametrize("seed", range(200))
def test_random_tokens_under_a_random_schema_are_json_of_that_schema(
    seed: int, a_schema: Schemas, compile: Compile, vocabulary: Vocabulary, write: Write
) -> None:
    draw = random.Random(seed)
    schema = a_schema(draw, 3)
    text, ended = write(compile(json_schema(schema, "field"))(), vocabulary, draw, 3000)
    assert ended
    assert is_valid(schema, text), (schema, text)


def test_json_object_is_an_object(compile: Compile, vocabulary: Vocabulary) -> None:
    make = compile(json_object())
    assert vocabulary.tokens.decode_str(make().allowed().nonzero().flatten().tolist()) == "{"


def test_white_space_is_one_space_at_most(compile: Compile, vocabulary: Vocabulary) -> None:
    matcher = compile(json_schema({"type": "array", "items": {"type": "integer"}}, "field"))()
    for token in vocabulary.tokens.tokenize_str("[ 1, 2 ,"):
        assert matcher.allowed()[token]
        matcher.accept(token)
    (space,) = vocabulary.tokens.tokenize_str(" ")
    (line,) = vocabulary.tokens.tokenize_str("\n")
    assert matcher.allowed()[space]
    assert not matcher.allowed()[line]
    matcher.accept(space)
    assert not matcher.allowed()[space]


def test_properties_come_in_the_order_of_the_schema(
    compile: Compile, vocabulary: Vocabulary, write: Write
) -> None:
    for names in (["b", "a", "c"], ["c", "b", "a"]):
        schema = {
            "type": "object",
            "properties": {name: {"type": "boolean"} for name in names},
            "required": sorted(names),
            "additionalProperties": False,
        }
        text, _ = write(compile(json_schema(schema, "field"))(), vocabulary, random.Random(1))
        assert list(json.loads(text)) == names


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"description": "x" * MAX_SCHEMA}, "larger than"),
        (nested(MAX_DEPTH + 1), "deeper than"),
        (nested(50_000), "deeper than"),
        ({"properties": {str(i): {} for i in range(MAX_PROPERTIES + 1)}}, "properties"),
        ({"properties": {"a": {"$ref": "https://example.com/schema"}}}, "refer to itself"),
        ({"x-guidance": {"lenient": True}}, "x-guidance"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"type": "integer", "multipleOf": 10_000_019}, "multipleOf"),
        ({"allOf": [{"multipleOf": n} for n in (991, 997, 983)]}, "multipleOf"),
        ({"multipleOf": 1e-300}, "multipleOf"),
        ({"multipleOf": 1e300}, "multipleOf"),
        ({"multipleOf": 10**4000}, "multipleOf"),
        ({"multipleOf": float("inf")}, "multipleOf"),
        ({"enum": [{} for _ in range(MAX_SCHEMA)]}, "larger than"),
    ],
)
def test_what_has_no_bounded_grammar_is_refused_by_name(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_schema(schema, "response_format.json_schema.schema")
    assert refused.value.param == "response_format.json_schema.schema"
    assert reason in refused.value.message


@pytest.mark.parametrize(
    "schema",
    [
        nested(MAX_DEPTH - 1),
        {"properties": {"$ref": {"type": "string"}, "x-guidance": {}, "minProperties": {"type": "integer"}}},
        {"const": {"$ref": "https://example.com/schema"}},
        {"type": "object", "required": ["a", "b"], "minProperties": 2},
        {"properties": {"a": {"multipleOf": 0.01}, "b": {"multipleOf": 25}}},
        {"multipleOf": 0},
        {"multipleOf": True},
        {"properties": [1], "required": 5, "minProperties": "x", "multipleOf": "y", "$ref": 7},
    ],
)
def test_what_only_looks_like_it_is_not(schema: dict[str, Any]) -> None:
    check_schema(schema, "field")


KEYWORDS = (
    *(
        "type",
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
        "minProperties",
        "maxProperties",
    ),
    *(
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "pattern",
        "format",
        "enum",
        "const",
    ),
    *(
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "anyOf",
        "allOf",
        "oneOf",
        "$ref",
    ),
    *("$defs", "not", "if", "then", "x-guidance", "default", "title", "a"),
)
values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats()
    | st.sampled_from(
        ["string", "object", "array", "integer", "#", "#/$defs/a", "^a+$", "(", "date", 10**400, -1]
    )
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=4),
    max_leaves=10,
)


@given(schema=st.dictionaries(st.sampled_from(KEYWORDS), values, max_size=4))
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_schema_is_compiled_or_refused(compile: Compile, schema: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidRequest):
        compile(json_schema(schema, "field"))()


def test_the_largest_multiple_compiles_in_bounded_time(compile: Compile) -> None:
    compile(json_schema({"type": "integer", "multipleOf": MAX_MULTIPLE - 1}, "field"))()
