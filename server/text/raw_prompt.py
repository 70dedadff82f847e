"""A prompt that is no chat: what every member reads as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.text.detokenizer import Detokenizer


@dataclass(frozen=True)
class RawPrompt:
    """Token ids, and where it is to be echoed its ``text`` and the character at which each token's text begins
    (``offsets``).
    """

    tokens: tuple[int, ...]
    text: str = ""
    offsets: tuple[int, ...] = ()


def offsets(
    tokens: Sequence[int], unsaid: Sequence[int], decode: Callable[[Sequence[int]], str], length: int
) -> tuple[int, ...]:
    """Where in a text of ``length`` characters each token begins; tokens whose ``unsaid`` is not 0 are not in
    the text.
    """
    detokenizer = Detokenizer(decode)
    begins, at = [], 0
    for token, added in zip(tokens, unsaid, strict=True):
        begins.append(min(at, length))
        if not added:
            at += len(detokenizer.push(token))
    return tuple(begins)
