"""Which tokens may come next in one answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.structured.vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch
    from llguidance import LLMatcher


class MatchError(RuntimeError):
    """The grammar cannot go on: it met a limit of its parser, or nothing may follow what was written."""


class TokenMatcher:
    """Follows one answer through a compiled grammar; see ``server.engine.sequence.Matcher``. For one thread at a time.

    Args:
        compiled: a copy of one's own, standing before the answer's first token.
        ends: whether the tokens that end an answer may be drawn where the grammar allows the end. Without them the answer
            goes on until nothing else can follow.

    Raises:
        MatchError: nothing may come first.
    """

    def __init__(self, compiled: LLMatcher, vocabulary: Vocabulary, *, ends: bool = True) -> None:
        self._compiled = compiled
        self._vocabulary = vocabulary
        self._ends = ends
        self._allowed = self._mask()

    @property
    def ended(self) -> bool:
        """Whether the answer is complete: nothing but a token that ends it could follow."""
        return self._compiled.is_stopped()

    def allowed(self) -> torch.Tensor:
        """[vocab] bool on the CPU, True for tokens that may come next; shared, so read it only."""
        return self._allowed

    def accept(self, token: int) -> None:
        """Goes on behind ``token``, which was allowed.

        Raises:
            MatchError: it was not; or nothing may follow it, or telling what may exceeds the parser's limits.
        """
        if not self._compiled.consume_token(token):
            raise MatchError(self._reason())
        # Computed here and not when it is asked for: only the mask tells for certain whether the answer is complete.
        self._allowed = self._mask()

    def _mask(self) -> torch.Tensor:
        import torch

        biases = self._compiled.compute_logit_bias()
        if self._compiled.is_error() or (self._compiled.is_stopped() and not self._compiled.is_accepting()):
            raise MatchError(self._reason())
        # A byte per token; the copy is writable, as torch wants it.
        mask = torch.frombuffer(bytearray(biases), dtype=torch.uint8).bool()
        if not self._ends and not self._compiled.is_stopped():
            mask[list(self._vocabulary.ends)] = False
        return mask

    def _reason(self) -> str:
        lines = self._compiled.get_error().strip().splitlines()
        return lines[0] if lines else "nothing may follow what was written"
