"""A tool call as it is said: whole, and piece by piece while it streams."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a function; ``arguments`` is the JSON text of an object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Content:
    """Text that is no call."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """The ``index``-th call of an answer, from 0; its arguments follow."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsPiece:
    """More of the JSON text of the ``index``-th call's arguments."""

    index: int
    text: str


Event = Content | CallBegun | ArgumentsPiece
"""What a piece of an answer's text turns out to be."""
