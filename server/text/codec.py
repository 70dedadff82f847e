"""Any text to the base's token ids and back, without a chat template. Special tokens are read where they are
spelled out, and written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenizerInfo:
    """What a client needs to treat text as the base's tokenizer does; tokens as they are spelled, None where
    there is none.
    """

    tokenizer_class: str
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    additional_special_tokens: tuple[str, ...]
    chat_template: str | None


class Codec:
    """Encodes and decodes with one fast tokenizer; call it in the tokenizer thread."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer

    def encode(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Token ids of ``text``; with ``add_special_tokens`` also those that the tokenizer puts around any
        text (BOS, where it has one).
        """
        return tuple(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ``tokens``; bytes that make no character are replacement characters, ids that the
        tokenizer does not know nothing.
        """
        text: str = self._backend.decode(list(tokens), skip_special_tokens=False)
        return text

    def entries(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Each token as the vocabulary writes it ("Ġthe"), "" for ids that the tokenizer does not know."""
        return tuple(self._backend.id_to_token(token) or "" for token in tokens)

    @property
    def info(self) -> TokenizerInfo:
        """See there."""
        tokenizer = self._tokenizer
        template = tokenizer.chat_template
        named = tokenizer.special_tokens_map  # only those that are set
        tokens = {
            key: str(named[key]) if key in named else None
            for key in ("bos_token", "eos_token", "pad_token", "unk_token")
        }
        return TokenizerInfo(
            tokenizer_class=type(tokenizer).__name__,
            additional_special_tokens=tuple(
                token for token in map(str, tokenizer.all_special_tokens) if token not in tokens.values()
            ),
            chat_template=template.get("default") if isinstance(template, dict) else template,
            **tokens,
        )
