"""Reads tool calls off an answer's text as it streams."""

from __future__ import annotations

import re
from collections.abc import Callable

from server.structured.tool_call import ArgumentsPiece, CallBegun, Content, Event
from server.structured.tool_format import ID_CHARACTERS, NAME, Pattern, Slot, ToolFormat

TORN = -1
"""The text ends before it is certain whether a pattern matches."""

WRONG = -2
"""The text does not match a pattern."""


class ToolReader:
    """Turns an answer's text into content and calls. What comes out in all does not depend on the pieces in which the text
    comes in.

    Args:
        format: how the calls are written.
        forced: whether the answer is calls and nothing else.
        opening: whether calls can only open the answer, even where the format announces them.
    """

    def __init__(self, format: ToolFormat, *, forced: bool, opening: bool = False) -> None:
        self.calls = 0
        self.complete = False
        """Whether the last call is written to its end."""
        self._format = format
        self._forced = forced
        self._marker = None if forced or opening else format.marker
        self._first = format.first if forced else format.opening
        self._arguments = _JsonObject()
        self._text = ""  # what is not understood yet
        self._step: Callable[[], list[Event]] = self._open if self._marker is None else self._speak

    def push(self, text: str) -> list[Event]:
        """What is certain with ``text``; a call's name and pieces of its arguments come as soon as they are there."""
        self._text += text
        events: list[Event] = []
        before = None
        while before != (self._step, self._text):
            before = (self._step, self._text)
            events += self._step()
        return events

    def flush(self) -> list[Event]:
        """The rest, the answer being over. A call that is torn off before its name is no content either."""
        rest, self._text = self._text, ""
        marker = self._format.marker
        announced = self._step == self._open and marker is not None and rest.startswith(marker)
        torn = self.calls or self._forced or announced
        return [] if torn or not rest else [Content(rest)]

    def _speak(self) -> list[Event]:
        """Content, up to where a call is announced; white space before a call belongs to neither."""
        assert self._marker is not None
        at = self._text.find(self._marker)
        if at >= 0:
            self._step = self._open
        else:
            at = len(self._text) - _beginning(self._marker, self._text)
        content = self._text[:at].rstrip()
        self._text = self._text[at if self._step == self._open else len(content) :]
        return [Content(content)] if content else []

    def _open(self) -> list[Event]:
        match = self._match(self._first)
        if match >= 0:
            self._advance(match, self._name)
        elif match == WRONG and self._marker is not None:  # it was no announcement
            self._advance(len(self._marker), self._speak)
            return [Content(self._marker)]
        elif match == WRONG:
            self._step = self._say
        return []

    def _say(self) -> list[Event]:
        """Content, for it is too late for a call."""
        text, self._text = self._text, ""
        return [Content(text)] if text else []

    def _name(self) -> list[Event]:
        found = NAME.match(self._text)
        if found is None:
            self._step = self._ignore if self._text else self._name
        elif found.end() < len(self._text):
            self._advance(found.end(), self._middle)
            self.calls, self.complete = self.calls + 1, False
            return [CallBegun(self.calls - 1, self._format.new_id(), found.group())]
        return []

    def _middle(self) -> list[Event]:
        match = self._match(self._format.middle)
        if match >= 0:
            self._arguments = _JsonObject()
            self._advance(match, self._argue)
        elif match == WRONG:
            self._step = self._ignore
        return []

    def _argue(self) -> list[Event]:
        length = self._arguments.push(self._text)
        piece = self._text[:length]
        self._advance(length, self._follow if self._arguments.ended else self._argue)
        return [ArgumentsPiece(self.calls - 1, piece)] if piece else []

    def _follow(self) -> list[Event]:
        """Behind a call: the next one, or the end."""
        self.complete = self._match(self._format.last) >= 0
        match = WRONG if self._format.next is None else self._match(self._format.next)
        if match >= 0:
            self._advance(match, self._name)
        return []

    def _ignore(self) -> list[Event]:
        """What cannot be read; the grammar never lets it be written."""
        self._text = ""
        return []

    def _advance(self, length: int, step: Callable[[], list[Event]]) -> None:
        self._text = self._text[length:]
        self._step = step

    def _match(self, pattern: Pattern) -> int:
        """How much of the text ``pattern`` matches, or TORN or WRONG."""
        at = 0
        for part in pattern:
            length = self._format.id_length if isinstance(part, Slot) else len(part)
            piece = self._text[at : at + length]
            fits = (
                re.fullmatch(f"{ID_CHARACTERS}*", piece) is not None
                if isinstance(part, Slot)
                else part.startswith(piece)
            )
            if not fits:
                return WRONG
            if len(piece) < length:
                return TORN
            at += length
        return at


class _JsonObject:
    """Finds the end of a JSON object that is known to be one."""

    def __init__(self) -> None:
        self.ended = False
        self._depth = 0
        self._quoted = False
        self._escaped = False

    def push(self, text: str) -> int:
        """How many characters of ``text`` belong to the object."""
        for index, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped = character == "\\"
                self._quoted = character != '"'
            elif character == '"':
                self._quoted = True
            else:
                self._depth += (character in "{[") - (character in "}]")
                if self._depth <= 0:
                    self.ended = True
                    return index + 1
        return len(text)


def _beginning(marker: str, text: str) -> int:
    """How many characters at the end of ``text`` may be the beginning of ``marker``."""
    longest = min(len(marker) - 1, len(text))
    return next((length for length in range(longest, 0, -1) if text.endswith(marker[:length])), 0)
