import asyncio
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from server.errors import InvalidRequest, Unavailable
from server.structured import GrammarCompiler, TokenMatcher, Vocabulary, compiler, json_object, json_schema

Compile = Callable[..., Callable[[], TokenMatcher]]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"not": {"type": "string"}}, "not"),
        ({"type": "string", "pattern": "^(?=a)b"}, "look-around"),
        ({"type": "string", "format": "shoe-size"}, "shoe-size"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "minLength": 5, "maxLength": 3}, "minLength"),
        ({"type": "shoe"}, "shoe"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/nowhere"}}}, "nowhere"),
        ({"oneOf": [{"type": "string"}, {"maxLength": 3}]}, "oneOf"),
        ({"$ref": "#"}, "allows no answer"),
    ],
)
def test_what_cannot_be_compiled_is_refused_with_the_reason(
    schema: dict[str, Any], reason: str, compile: Compile
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        compile(json_schema(schema, "the.field"), param="the.field")
    assert refused.value.param == "the.field"
    assert reason in refused.value.message
    assert len(refused.value.message) < 300


def test_a_grammar_is_compiled_once_and_the_oldest_is_forgotten(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    original = compiler._compile
    monkeypatch.setattr(compiler, "KEPT", 2)
    monkeypatch.setattr(
        compiler, "_compile", lambda grammar, *rest: compiled.append(grammar) or original(grammar, *rest)
    )
    a, b, c = (json_schema({"const": name}, "field") for name in "abc")

    async def work() -> None:
        under_test = GrammarCompiler(vocabulary)
        for grammar in (a, a, b, a, c, a, b):
            await under_test.compile(grammar, param="field")
        under_test.stop()

    asyncio.run(work())
    assert compiled == [a, b, c, b]


def test_answers_after_many_others_meet_no_limit_that_those_used_up(
    vocabulary: Vocabulary, write: Callable[..., tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matchers of one compiled grammar share its automata: some thirty answers together meet a limit of 325 states."""
    monkeypatch.setattr(compiler, "LEXER_STATES", 325)
    monkeypatch.setattr(compiler, "SHARED", 16)
    properties = {
        "when": {"type": "string", "format": "date-time"},
        "where": {"type": "string", "format": "uri", "maxLength": 30},
        "who": {"type": "string", "pattern": "^[a-z]{1,30}@[a-z]{1,30}$"},
    }
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }

    async def work() -> None:
        under_test = GrammarCompiler(vocabulary)
        # All are asked for before the first is written, some of them three at a time.
        makers = [
            await under_test.compile(json_schema(schema, "field"), param="field", answers=answers)
            for answers in (1, 3) * 20
        ]
        for seed, make in enumerate(makers):
            for _ in range(1 + seed % 2 * 2):
                _, ended = write(make(), vocabulary, random.Random(seed))
                assert ended
        under_test.stop()

    asyncio.run(work())


def test_compiling_holds_neither_the_event_loop_nor_its_caller_for_ever(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    original = compiler._compile

    def slow(grammar: str, *rest: Any) -> Any:
        if "slow" in grammar:
            assert threading.current_thread() is not threading.main_thread()
            release.wait(20)
        return original(grammar, *rest)

    monkeypatch.setattr(compiler, "_compile", slow)
    monkeypatch.setattr(compiler, "QUEUE_SECONDS", 0.2)

    async def work() -> None:
        under_test = GrammarCompiler(vocabulary, seconds=0.2)
        begun = time.monotonic()
        with pytest.raises(InvalidRequest, match=r"takes longer than 0\.2 s"):
            await under_test.compile(json_schema({"const": "slow"}, "field"), param="field")
        with pytest.raises(Unavailable):  # not this grammar's fault
            await under_test.compile(json_object(), param="field")
        with pytest.raises(Unavailable):
            await under_test.run(lambda: None, param="field")
        assert time.monotonic() - begun < 10
        release.set()
        await asyncio.sleep(0.1)
        await under_test.compile(json_object(), param="field")
        under_test.stop()

    asyncio.run(work())


def test_a_tokenizer_that_grammars_cannot_use_is_a_refusal(compile: Compile) -> None:
    broken = Vocabulary(lambda: json.dumps({"model": {}}), 10, frozenset({0}), {})
    with pytest.raises(InvalidRequest, match="tokenizer"):
        compile(json_object(), broken)


def test_schemas_of_different_owners_are_compiled_in_turn(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    original, gate = compiler._compile, threading.Event()

    def noted(grammar: str, *rest: Any) -> Any:
        gate.wait(20)
        compiled.append(names[grammar])
        return original(grammar, *rest)

    names = {json_schema({"const": name}, "field"): name for name in ("f0", "f1", "f2", "q0")}
    monkeypatch.setattr(compiler, "_compile", noted)

    async def work() -> None:
        under_test = GrammarCompiler(vocabulary)
        tasks = [
            asyncio.create_task(under_test.compile(grammar, param="field", owner=name[0]))
            for grammar, name in names.items()
        ]
        await asyncio.sleep(0.05)
        gate.set()
        await asyncio.gather(*tasks)
        under_test.stop()

    asyncio.run(work())
    assert compiled in (["f0", "q0", "f1", "f2"], ["f0", "f1", "q0", "f2"])


def test_a_grammar_that_another_owner_sent_is_compiled_anew(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the time would tell one key what schemas another has sent."""
    compiled: list[str] = []
    original = compiler._compile
    monkeypatch.setattr(
        compiler, "_compile", lambda grammar, *rest: compiled.append(grammar) or original(grammar, *rest)
    )
    grammar = json_schema({"const": "secret"}, "field")

    async def work() -> None:
        under_test = GrammarCompiler(vocabulary)
        for owner in ("a", "b", "a", "b"):
            await under_test.compile(grammar, param="field", owner=owner)
        under_test.stop()

    asyncio.run(work())
    assert compiled == [grammar] * 2
