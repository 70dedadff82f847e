"""The base's tokens as grammars see them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLTokenizer


class Vocabulary:
    """Which bytes each token stands for, and which tokens are none but marks.

    Args:
        tokenizer: gives the base's tokenizer as its tokenizer.json; called once, when it is needed first.
        size: token ids are below this; ids that the tokenizer does not know are never allowed.
        ends: tokens that end an answer.
        added: text of the tokens that stand beside the ordinary ones, by id.
        hidden: those of them that are not shown in an answer's text.
    """

    def __init__(
        self,
        tokenizer: Callable[[], str],
        size: int,
        ends: frozenset[int],
        added: Mapping[int, str],
        hidden: frozenset[int] = frozenset(),
    ) -> None:
        self.size = size
        self.ends = ends
        self.hidden = hidden
        self._tokenizer = tokenizer
        self._added = {text: token for token, text in added.items() if text}
        self._tokens: LLTokenizer | None = None
        self._making = threading.Lock()

    @property
    def tokens(self) -> LLTokenizer:
        """llguidance's view. The first use makes it, which takes up to a second for large vocabularies.

        Raises:
            ValueError: the tokenizer is of a kind that it does not know, or no token ends an answer.
        """
        if not self.ends:
            raise ValueError("no token ends an answer")
        with self._making:
            if self._tokens is None:
                from llguidance import LLTokenizer

                self._tokens = LLTokenizer(self._tokenizer(), n_vocab=self.size, eos_token=sorted(self.ends))
            return self._tokens

    @property
    def end_texts(self) -> tuple[str, ...]:
        """How the tokens that end an answer look when a template writes them."""
        return tuple(text for text, token in self._added.items() if token in self.ends)

    def split(self, text: str) -> Iterator[str | int]:
        """``text`` as ordinary stretches and the marks in it: tokens that no ordinary stretch can produce."""
        marks = {text: token for text, token in self._added.items() if self._is_mark(token)}
        if not marks:
            yield text
            return
        longest_first = sorted(marks, key=len, reverse=True)
        for part in re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text):
            if part:
                yield marks.get(part, part)

    @property
    def shown_marks(self) -> tuple[int, ...]:
        """Marks that are part of an answer's text, such as those around a model's reasoning."""
        return tuple(
            token
            for token in sorted(self._added.values())
            if self._is_mark(token) and token not in self.hidden and token not in self.ends
        )

    def _is_mark(self, token: int) -> bool:
        return self.tokens.is_special_token(token)
