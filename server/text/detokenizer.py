"""Token ids to text, one token at a time, without ever showing half a character."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

Decode = Callable[[Sequence[int]], str]

REPLACEMENT = "\ufffd"
"""What decoders show for bytes that are not (yet) a character."""

CONTEXT = 6
"""Tokens decoded again before the new ones, so that decoders that look back (leading spaces, byte runs) see
what they need.
"""

PATIENCE = 64
"""Tokens after which bytes that still make no character are shown as replacement characters: a model that
emits noise.
"""


class Detokenizer:
    """Text of one answer as its tokens arrive.

    ``decode`` maps token ids to text; ids in ``hidden`` (special tokens) have none. ``before`` are tokens of the
    text that the answer goes on with, if it does: many decoders drop the space that a text begins with.
    """

    def __init__(
        self, decode: Decode, hidden: Collection[int] = frozenset(), before: Sequence[int] = ()
    ) -> None:
        self._decode = decode
        self._hidden = hidden
        kept = [token for token in before[-CONTEXT:] if token not in hidden]
        context = decode(kept)
        if context.endswith(REPLACEMENT):  # cut inside a character
            kept, context = [], ""
        self._tokens = kept
        self._shown = len(kept)  # tokens whose text is out
        self._context = context  # text of the tokens before ``_shown`` that are decoded again

    @property
    def waiting(self) -> bool:
        """Whether the text of some token is not out yet."""
        return len(self._tokens) > self._shown

    def push(self, token: int) -> str:
        """The text that is certain after this token; may be empty while a character is incomplete."""
        if token in self._hidden:
            return ""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        if text.endswith(REPLACEMENT) and len(self._tokens) - self._shown < PATIENCE:
            return ""
        return self._show(text)

    def flush(self) -> str:
        """The rest, the answer being over; bytes that never became a character appear as replacement
        characters.
        """
        if not self.waiting:
            return ""
        return self._show(self._decode(self._tokens))

    def _show(self, text: str) -> str:
        new = text[len(self._context) :]
        kept = self._tokens[-CONTEXT:]
        context = self._decode(kept)
        # A context that begins inside a character would decode differently: keep one that the new text really
        # ends with.
        if not text.endswith(context):
            kept, context = self._tokens, text
        self._tokens, self._shown, self._context = kept, len(kept), context
        return new
