"""Tool calls as a grammar: a format filled with functions whose arguments follow their schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from server.errors import InvalidRequest
from server.structured.json_grammar import check_schema, embedded
from server.structured.tool_format import ID_CHARACTERS, Pattern, Slot, ToolFormat, literal_start
from server.structured.vocabulary import Vocabulary

MAX_PARAMETERS = 256_000
"""Characters of all functions' parameters together."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; ``parameters`` is a JSON schema of an object, None where it takes none."""

    name: str
    parameters: Mapping[str, Any] | None

    def arguments(self, param: str) -> dict[str, Any]:
        """The schema of its arguments.

        Raises:
            InvalidRequest: it is not the schema of an object, or over a bound.
        """
        if self.parameters is None:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        check_schema(self.parameters, param)
        if self.parameters.get("type", "object") != "object":
            raise InvalidRequest(
                f"'{param}' must be the schema of an object ('type': 'object').", param=param
            )
        return {**self.parameters, "type": "object"}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """What is to be called.

    Attributes:
        mode: auto: calls or text; required: at least one call; named: calls of the one function of ``names``.
        names: the functions that may be called.
        parallel: whether one answer may make several calls.
    """

    mode: Literal["auto", "required", "named"]
    names: frozenset[str]
    parallel: bool = True


def tool_grammar(
    format: ToolFormat,
    tools: Sequence[Tool],
    choice: ToolChoice,
    vocabulary: Vocabulary,
    content: Mapping[str, Any] | None = None,
) -> str:
    """The Lark grammar of answers that make calls as ``choice`` has it; with ``content``, those that make none are JSON of
    this schema. Not on the event loop: it needs the vocabulary.

    Raises:
        InvalidRequest: a function's schema cannot be used.
    """
    rules = _Rules(vocabulary, format.id_length)
    call = _call(format, tools, choice, rules)
    lines = ["%llguidance {}"]
    if choice.mode == "auto" and content is not None:
        lines.append(f"start: {embedded(content)} | {rules.pattern(format.opening)} {call}")
    elif choice.mode == "auto":
        lines += _free(format, call, rules)
    else:
        lines.append(f"start: {rules.pattern(format.first)} {call}")
    return "\n".join(lines + rules.lines)


class _Rules:
    """The rules of one grammar, as they are added."""

    def __init__(self, vocabulary: Vocabulary, id_length: int) -> None:
        self.vocabulary = vocabulary
        self.lines: list[str] = []
        self._id_length = id_length

    def add(self, name: str, body: str) -> str:
        """A new rule's name."""
        self.lines.append(f"{name}: {body}")
        return name

    def pattern(self, pattern: Pattern) -> str:
        """A format's part: quoted text, marks by their ids, ids of calls."""
        return " ".join(
            f"/{ID_CHARACTERS}{{{self._id_length}}}/" if isinstance(part, Slot) else self._quoted(part)
            for part in pattern
        )

    def _quoted(self, text: str) -> str:
        return " ".join(
            f"<[{part}]>" if isinstance(part, int) else json.dumps(part, ensure_ascii=False)
            for part in self.vocabulary.split(text)
        )


def _call(format: ToolFormat, tools: Sequence[Tool], choice: ToolChoice, rules: _Rules) -> str:
    """What follows ``first``: the functions' names and arguments, more calls, and the end."""
    bodies, size = [], 0
    for index, tool in enumerate(tools):
        if tool.name not in choice.names:
            continue
        schema = embedded(tool.arguments(f"tools[{index}].function.parameters"))
        size += len(schema)
        if size > MAX_PARAMETERS:
            raise InvalidRequest(
                f"The parameters of all 'tools' together are larger than {MAX_PARAMETERS} characters.",
                param="tools",
            )
        # The name and what follows it are one text, so that a token may reach from one into the other.
        opening = rules.pattern((tool.name + literal_start(format.middle), *format.middle[1:]))
        bodies.append(rules.add(f"call_{index}", f"{opening} {schema}"))
    one = rules.add("call", " | ".join(bodies))
    last = rules.pattern(format.last)
    if format.next is None or not choice.parallel:
        return f"{one} {last}"
    return f"{one} ({rules.pattern(format.next)} {one})* {last}"


def _free(format: ToolFormat, call: str, rules: _Rules) -> list[str]:
    """Text in which no call is begun, or such text and then calls."""
    marker, opening = format.marker, rules.pattern(format.opening)
    used = set(re.findall(r"<\[(\d+)\]>", f"{opening} {call}"))
    marks = [str(token) for token in rules.vocabulary.shown_marks if str(token) not in used]
    more = f"(<[{','.join(marks)}]> MORE?)*" if marks else ""
    if marker is None:  # a call can only open the answer
        begun = _escaped(literal_start(format.opening))
        rules.add("TEXT", f"/(?s:.+)/ & ~/{begun}(?s:.*)/")
        rules.add("MORE", "/(?s:.+)/")
        return [f"start: TEXT? {more} | {opening} {call}"]
    rules.add("text", f"MORE? {more}")
    rules.add("MORE", f"/(?s:.+)/ & ~/(?s:.*){_escaped(marker)}(?s:.*)/")
    if opening.startswith("<["):
        return [f"start: text | text {opening} {call}"]
    # Text and marker are one lexeme, which ends as soon as it can: a lexer would take the marker for more text otherwise.
    rules.add("marked[lazy]", f"/(?s:.*){_escaped(marker)}/")
    begun = literal_start(format.opening)[len(marker) :]
    rest = rules.pattern((begun, *format.opening[1:]))
    return [f"start: text | {'text ' if marks else ''}marked {rest} {call}"]


def _escaped(text: str) -> str:
    """``text`` within a regular expression between slashes."""
    return "".join(character if character.isalnum() else f"\\x{{{ord(character):x}}}" for character in text)


def format_marks(format: ToolFormat, vocabulary: Vocabulary) -> frozenset[int]:
    """The marks that calls are written with: a reader of calls has to see their text."""
    patterns = (format.first, format.middle, format.next or (), format.last)
    texts = [part for pattern in patterns for part in pattern if isinstance(part, str)]
    return frozenset(part for text in texts for part in vocabulary.split(text) if isinstance(part, int))
