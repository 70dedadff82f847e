import json
import random
from collections.abc import Callable

import pytest
import torch

from server.structured import MatchError, TokenMatcher, Vocabulary, json_object, json_schema

Compile = Callable[..., Callable[[], TokenMatcher]]
OBJECT = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}


def feed(matcher: TokenMatcher, vocabulary: Vocabulary, text: str) -> TokenMatcher:
    for token in vocabulary.tokens.tokenize_str(text):
        assert matcher.allowed()[token], text
        matcher.accept(token)
    return matcher


def test_the_mask_covers_the_vocabulary_of_the_model(compile: Compile, vocabulary: Vocabulary) -> None:
    mask = compile(json_object())().allowed()
    assert (mask.shape, mask.dtype, mask.device.type) == ((vocabulary.size,), torch.bool, "cpu")
    assert not mask[300:].any()  # rows the tokenizer has no token for


def test_only_what_the_schema_allows_comes_next(compile: Compile, vocabulary: Vocabulary) -> None:
    matcher = compile(json_schema(OBJECT, "field"))()
    assert vocabulary.tokens.decode_str(matcher.allowed().nonzero().flatten().tolist()[:1]) == "{"
    feed(matcher, vocabulary, '{"a":')
    allowed = vocabulary.tokens.decode_str(matcher.allowed().nonzero().flatten().tolist())
    assert set(allowed) <= set("-0123456789 ")


def test_an_answer_that_nothing_can_follow_has_ended(compile: Compile, vocabulary: Vocabulary) -> None:
    make = compile(json_schema(OBJECT, "field"))
    assert not feed(make(), vocabulary, '{"a": 1').ended
    matcher = feed(make(), vocabulary, '{"a": 1}')
    assert matcher.ended
    assert matcher.allowed().nonzero().flatten().tolist() == [0]


def test_the_end_is_allowed_where_the_text_may_end_and_only_there(
    compile: Compile, vocabulary: Vocabulary
) -> None:
    matcher = feed(compile(json_schema({"type": "integer"}, "field"))(), vocabulary, "-")
    assert not matcher.allowed()[0]
    feed(matcher, vocabulary, "1")
    assert matcher.allowed()[0]
    assert not matcher.ended
    matcher.accept(0)
    assert matcher.ended


def test_without_ends_an_answer_goes_on_until_nothing_else_can_follow(
    compile: Compile, vocabulary: Vocabulary
) -> None:
    make = compile(json_schema({"enum": [1, 12]}, "field"), ends=False)
    matcher = feed(make(), vocabulary, "1")
    assert not matcher.allowed()[0]
    assert matcher.allowed().any()
    assert feed(matcher, vocabulary, "2").ended


def test_matchers_of_one_grammar_share_nothing(compile: Compile, vocabulary: Vocabulary) -> None:
    make = compile(json_schema(OBJECT, "field"))
    first, second = make(), make()
    feed(first, vocabulary, '{"a": 1}')
    assert first.ended
    assert not feed(second, vocabulary, '{"a":').ended
    assert not make().ended


def test_a_token_that_was_not_allowed_is_an_error(compile: Compile, vocabulary: Vocabulary) -> None:
    matcher = compile(json_schema(OBJECT, "field"))()
    with pytest.raises(MatchError):
        feed_blindly(matcher, vocabulary, "x")


def test_a_dead_end_is_an_error_and_no_empty_mask(compile: Compile, vocabulary: Vocabulary) -> None:
    never = {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}, "required": ["a"]}
    matcher = compile(json_schema(never, "field"))()
    with pytest.raises(MatchError):
        feed_blindly(matcher, vocabulary, '{"a": ')


def test_special_tokens_are_never_text(compile: Compile) -> None:
    matcher, draw = compile(json_object())(), random.Random(5)
    for _ in range(200):
        allowed = matcher.allowed()
        assert not allowed[1:5].any()
        if matcher.ended:
            break
        allowed = allowed.clone()
        allowed[0] = False
        matcher.accept(draw.choice(allowed.nonzero().flatten().tolist()))


def test_strings_are_whole_characters(
    compile: Compile, vocabulary: Vocabulary, write: Callable[..., tuple[str, bool]]
) -> None:
    schema = {"type": "string", "minLength": 30, "maxLength": 30}
    make = compile(json_schema(schema, "field"))
    for seed in range(20):
        text, ended = write(make(), vocabulary, random.Random(seed))
        assert ended
        assert len(json.loads(text)) == 30
        json.dumps(json.loads(text), ensure_ascii=False).encode()  # no lone surrogates


def feed_blindly(matcher: TokenMatcher, vocabulary: Vocabulary, text: str) -> None:
    for token in vocabulary.tokens.tokenize_str(text):
        matcher.accept(token)
