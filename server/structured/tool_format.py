"""How a model writes tool calls: as its own chat template shows them to it.

No format is known by name. A conversation with calls of a made-up tool is rendered, and what stands around the names and the
arguments is the format::

    <tool_call>\\n{"name": "  NAME  ", "arguments": {…}  }\\n</tool_call>\\n<tool_call>\\n{"name": "  NAME  …  }\\n</tool_call>
    └──────── first ───────┘      └──── middle ───┘      └──────────────── next ──────────────┘             └───── last ────┘
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile
from typing import Any, Protocol

from server.structured.call_style import SHORT_ID, CallStyle
from server.structured.tool_call import ToolCall

NAME = re.compile(r"[a-zA-Z0-9_-]+")
"""What a function's name is made of."""

ID_CHARACTERS = "[a-zA-Z0-9_]"
"""What a call's id is made of, as a regular expression."""

LONG_ID = 24
"""Characters of a call's id behind ``call_``, as OpenAI has them."""

TEXT = "\u2603plain\u2603"
NAMES = ("sentinel_one", "sentinel_two")
ARGUMENTS: tuple[dict[str, Any], ...] = ({"sentinel_key": "one\"'\\"}, {"sentinel_key": "two\"'\\"})
QUESTION = {"role": "user", "content": "sentinel question"}
"""What the rendered conversation says. A template has no snowmen; one that writes something like JSON trips over quotes."""


STYLES = tuple(CallStyle(short, text) for text in (False, True) for short in (False, True))
"""All styles, the most common first."""


class FormatError(ValueError):
    """No format can be read off a template; the message says why."""


class Slot(Enum):
    """A place in a format for an id: of the call that is being written, or of the one after it."""

    ID = "id"
    NEXT_ID = "next id"


Pattern = tuple[str | Slot, ...]
"""Literal text with slots."""


class Render(Protocol):
    """Renders a chat with a template; raises whatever the template does."""

    def __call__(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
    ) -> str:
        """The text of the chat."""


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """What stands around calls.

    Attributes:
        first: before the first call's name.
        middle: between a name and its arguments.
        next: from a call's arguments to the next call's name; None where an answer has one call at most.
        last: behind the last call's arguments.
        style: how the template wants earlier calls.
    """

    first: Pattern
    middle: Pattern
    next: Pattern | None
    last: Pattern
    style: CallStyle = STYLES[0]

    @classmethod
    def derive(cls, render: Render, ends: Sequence[str]) -> ToolFormat:
        """The format of the template behind ``render``; ``ends`` are the texts of the tokens that end an answer.

        Raises:
            FormatError: the template shows no tools, or writes calls in a way that cannot be told from its output.
        """
        if not shows_tools(render):
            raise FormatError("the chat template of the served model does not show tools")
        for style in STYLES:
            found = _Probe(render, ends, style).format()
            if found is not None:
                return found
        raise FormatError(
            "the chat template of the served model writes tool calls in a form this server cannot read"
        )

    @property
    def opening(self) -> Pattern:
        """``first`` behind text: without the white space that the template puts before it."""
        return (literal_start(self.first).lstrip(), *self.first[1:])

    @property
    def marker(self) -> str | None:
        """What announces a call anywhere in an answer; None where a call can only open one."""
        start = literal_start(self.opening)
        found = re.match(r"[^\s{\"']+", start)
        if found is None:
            return None
        marker = found.group().rstrip("[") or found.group()
        distinct = len(marker) > 2 and not marker[0].isalnum() and any(map(str.isalnum, marker))
        return marker if distinct else None

    @property
    def id_length(self) -> int:
        """Characters of a call's id."""
        return SHORT_ID if self.style.short_ids else len("call_") + LONG_ID

    def new_id(self) -> str:
        """An id for a call."""
        alphabet = string.ascii_letters + string.digits
        start = "" if self.style.short_ids else "call_"
        return start + "".join(secrets.choice(alphabet) for _ in range(self.id_length - len(start)))

    def write(self, calls: Sequence[ToolCall]) -> str:
        """``calls`` as the model writes them."""
        text = ""
        for index, call in enumerate(calls):
            before = (self.next or self.first) if index else self.first
            previous = calls[index - 1].id if index else call.id
            text += _filled(before, previous, call.id)
            text += call.name + _filled(self.middle, call.id) + call.arguments
        return text + (_filled(self.last, calls[-1].id) if calls else "")


def shows_tools(render: Render) -> bool:
    """Whether a template writes tools into its prompt."""
    tool = _tool("sentinel_shown")
    try:
        text = render([QUESTION], tools=[tool], add_generation_prompt=True)
    except Exception:
        return False
    return "sentinel_shown" in text


def call_style(render: Render) -> CallStyle | None:
    """How a template wants the calls of earlier answers; None where it does not show them."""
    for style in STYLES:
        try:
            text = _Probe(render, (), style).rendered(_calls(1, style))
        except Exception:  # it does not take them like this
            continue
        if NAMES[0] in text and "sentinel_key" in text and _json_span(text, 0, ARGUMENTS[0]):
            return style
    return None


class _Probe:
    """One way to give a template calls, and what it makes of them."""

    def __init__(self, render: Render, ends: Sequence[str], style: CallStyle) -> None:
        self._render = render
        self._ends = ends
        self._style = style

    def format(self) -> ToolFormat | None:
        """What is found with this way; None when it does not work."""
        try:
            one = self._body(1)
        except Exception:  # a template is a program: whatever it trips over, it does not take calls like this
            return None
        try:
            two = self._body(2)
        except Exception:  # many templates refuse a second call
            two = None
        return self._read(one, two)

    def rendered(self, calls: Sequence[ToolCall], content: str = "") -> str:
        """The conversation with an answer that makes ``calls``."""
        answer: dict[str, Any] = {"role": "assistant", "content": content}
        if calls:
            answer["tool_calls"] = [self._style.call(call) for call in calls]
        tools = [_tool(name) for name in NAMES]
        return self._render([QUESTION, answer], tools=tools, add_generation_prompt=False)

    def _body(self, count: int) -> str:
        """What the answer itself is: what differs from an answer of plain text, up to the token that ends it."""
        plain, called = self.rendered([], TEXT), self.rendered(_calls(count, self._style))
        begin = _common(plain, called)
        behind = _common(plain[begin:][::-1], called[begin:][::-1])
        body = called[begin : len(called) - behind]
        cut = [at for end in self._ends if (at := body.find(end)) >= 0]
        return body[: min(cut)] if cut else body

    def _read(self, one: str, two: str | None) -> ToolFormat | None:
        first_id, second_id = (call.id for call in _calls(2, self._style))
        single = _pieces(one, 1)
        if single is None:
            return None
        first, middle, last = (_pattern(piece, {first_id: Slot.ID}) for piece in single)
        follow: Pattern | None = None
        double = _pieces(two, 2) if two is not None else None
        if double is not None:
            same = [_pattern(piece, {first_id: Slot.ID}) for piece in double[:2]]
            same += [_pattern(piece, {second_id: Slot.ID}) for piece in double[3:]]
            # Otherwise a second call is written differently from the first.
            if same == [first, middle, middle, last]:
                follow = _pattern(double[2], {first_id: Slot.ID, second_id: Slot.NEXT_ID})
        if not literal_start(first).strip() or not _readable(first, middle, follow):
            return None
        return ToolFormat(first, middle, follow, last, self._style)


def _common(left: str, right: str) -> int:
    """Characters at the start that are the same."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))


def _readable(first: Pattern, middle: Pattern, follow: Pattern | None) -> bool:
    """Whether names can be told from what stands around them."""
    neighbours = [middle[:1], first[-1:]] + ([follow[-1:]] if follow else [])
    return (
        all(part and isinstance(part[0], str) for part in neighbours)
        and not NAME.match(str(middle[0]))
        and follow != ()
    )


def _pieces(body: str, count: int) -> list[str] | None:
    """What stands before, between and behind the names and arguments of ``count`` calls."""
    pieces, at = [], 0
    for name, arguments in list(zip(NAMES, ARGUMENTS, strict=True))[:count]:
        start = body.find(name, at)
        span = _json_span(body, start + len(name), arguments)
        if start < 0 or span is None:
            return None
        pieces += [body[at:start], body[start + len(name) : span[0]]]
        at = span[1]
    pieces.append(body[at:])
    said_once = all(body.count(name) == 1 for name in NAMES[:count])
    return pieces if said_once else None


def _json_span(text: str, start: int, value: Mapping[str, Any]) -> tuple[int, int] | None:
    """Where ``value`` stands in ``text`` as JSON, from ``start`` on."""
    decoder = json.JSONDecoder()
    at = text.find("{", start)
    while at >= 0:
        try:
            found, end = decoder.raw_decode(text, at)
        except ValueError:
            found, end = None, at
        if found == value:
            return at, end
        at = text.find("{", at + 1)
    return None


def _pattern(text: str, ids: Mapping[str, Slot]) -> Pattern:
    parts = re.split("(" + "|".join(ids) + ")", text)
    return tuple(ids.get(part, part) for part in parts if part)


def _filled(pattern: Pattern, id: str, next_id: str = "") -> str:
    slots = {Slot.ID: id, Slot.NEXT_ID: next_id or id}
    return "".join(slots[part] if isinstance(part, Slot) else part for part in pattern)


def literal_start(pattern: Pattern) -> str:
    """The literal start of a pattern."""
    return pattern[0] if pattern and isinstance(pattern[0], str) else ""


def _calls(count: int, style: CallStyle) -> list[ToolCall]:
    ids = ("sentinel1", "sentinel2") if style.short_ids else ("call_sentinel_id_one", "call_sentinel_id_two")
    return [ToolCall(ids[i], NAMES[i], json.dumps(ARGUMENTS[i])) for i in range(count)]


def _tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"sentinel_key": {"type": "string"}}}
    return {
        "type": "function",
        "function": {"name": name, "description": "sentinel", "parameters": parameters},
    }
