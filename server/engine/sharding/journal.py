"""What rank 0 did to caches since the last message, and the forward to be run now, as one row of integers.

op        code, member, its arguments
forward   FORWARD, rows drawn, parts, of each: member, free blocks, chunks, of each:
          home, owner, start, flags, logits, numbers of the condition, these, tokens, these

Members and contexts ("owners") have numbers; a float travels as the integer that has its bits.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from server.engine.chunk import Chunk

EVERYONE = -1
"""The home of a context that every rank keeps its part of."""

_PROMPT, _APART = 1, 2


class Op(IntEnum):
    """What can be done to a member's cache, as :class:`~server.engine.cache.context_cache.ContextCache` says it; besides:

    CLEAR     free every context, whatever became of it
    VACATE    the member is gone, with its part of the forward
    FORWARD   the last of a message: see the module
    """

    RESERVE = 1
    COPY = 2
    OFFER = 3
    TOUCH = 4
    EVICT = 5
    FREE = 6
    TRIM = 7
    CLOSE = 8
    CLEAR = 9
    VACATE = 10
    FORWARD = 11


_ARGUMENTS = {Op.RESERVE: 2, Op.COPY: 3, Op.OFFER: 1, Op.TOUCH: 1, Op.FREE: 1}
"""How many an op has besides its member; none where it is not here."""


@dataclass(frozen=True, slots=True)
class Note:
    """One op on the cache of a member."""

    op: Op
    member: int
    arguments: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """One member's chunks of a forward, their owners being numbers, each with the rank that runs it, its home.

    ``free``: blocks of the member's cache that are free on rank 0; on the others as many are.
    """

    member: int
    free: int
    chunks: tuple[tuple[int, Chunk], ...]


@dataclass(frozen=True, slots=True)
class Forward:
    """Chunks to be run now; ``drawn``: rows of the step before whose tokens they hold, 0 where all tokens are known."""

    drawn: int
    parts: tuple[Part, ...]


class Journal:
    """What has been noted and not yet been told."""

    def __init__(self) -> None:
        self._words: list[int] = []

    def note(self, op: Op, member: int, *arguments: int) -> None:
        """An op has been done."""
        self._words += (op, member, *arguments)

    def close_with(self, forward: Forward) -> list[int]:
        """The message that ends with ``forward``; the journal is empty then."""
        words, self._words = self._words, []
        words += (Op.FORWARD, forward.drawn, len(forward.parts))
        for part in forward.parts:
            words += (part.member, part.free, len(part.chunks))
            for home, chunk in part.chunks:
                assert isinstance(chunk.owner, int), "owners have numbers by now"
                flags = _PROMPT * chunk.is_prompt + _APART * chunk.apart
                words += (home, chunk.owner, chunk.start, flags, chunk.logits)
                words += (len(chunk.condition), *map(_as_int, chunk.condition))
                words += (len(chunk.tokens), *chunk.tokens)
        return words


def read(words: Sequence[int]) -> tuple[list[Note], Forward]:
    """A message. Raises ``ValueError`` when it is none."""
    notes: list[Note] = []
    left = iter(words)
    for word in left:
        op = Op(word)
        if op is Op.FORWARD:
            forward = _forward(left)
            if next(left, None) is not None:
                raise ValueError("a message goes on behind its forward")
            return notes, forward
        notes.append(Note(op, _next(left), _take(left, _ARGUMENTS.get(op, 0))))
    raise ValueError("a message without a forward")


def _forward(left: Iterator[int]) -> Forward:
    drawn, parts = _next(left), _next(left)
    return Forward(drawn, tuple(_part(left) for _ in range(parts)))


def _part(left: Iterator[int]) -> Part:
    member, free, chunks = _take(left, 3)
    return Part(member, free, tuple(_chunk(left) for _ in range(chunks)))


def _chunk(left: Iterator[int]) -> tuple[int, Chunk]:
    home, owner, start, flags, logits = _take(left, 5)
    condition = tuple(_as_float(word) for word in _take(left, _next(left)))
    tokens = _take(left, _next(left))
    is_prompt, apart = bool(flags & _PROMPT), bool(flags & _APART)
    return home, Chunk(owner, tokens, start, is_prompt, logits, condition, apart)


def _take(left: Iterator[int], count: int) -> tuple[int, ...]:
    return tuple(_next(left) for _ in range(count))


def _next(left: Iterator[int]) -> int:
    word = next(left, None)
    if word is None:
        raise ValueError("a message ends in the middle")
    return word


def _as_int(value: float) -> int:
    bits: int = struct.unpack("<q", struct.pack("<d", value))[0]
    return bits


def _as_float(bits: int) -> float:
    value: float = struct.unpack("<d", struct.pack("<q", bits))[0]
    return value
