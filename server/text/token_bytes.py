"""The bytes one token stands for, which need not be whole characters."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    """Reads the vocabulary of a fast tokenizer; it changes nothing, so any thread may use it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._added: dict[int, bytes] = {
            token: added.content.encode() for token, added in tokenizer.added_tokens_decoder.items()
        }
        decoder = self._backend.decoder
        steps = [] if decoder is None else list(_steps(json.loads(decoder.__getstate__())))
        kinds = {step["type"] for step in steps}
        self._byte_level = _byte_level() if "ByteLevel" in kinds else None
        self._byte_fallback = "ByteFallback" in kinds
        self._space = _space(steps)

    def of(self, token: int) -> bytes:
        """What ``token`` adds to a text; nothing for ids the tokenizer does not know. A special token is as it
        is spelled.
        """
        if token in self._added:
            return self._added[token]
        entry: str = self._backend.id_to_token(token) or ""
        if self._byte_level is not None and all(character in self._byte_level for character in entry):
            return bytes(self._byte_level[character] for character in entry)
        if self._byte_fallback and (match := _BYTE.fullmatch(entry)):
            return bytes([int(match[1], 16)])
        return (entry.replace(self._space, " ") if self._space else entry).encode()

    def text(self, token: int) -> str:
        """The same as text; bytes that make no character are replacement characters."""
        return self.of(token).decode("utf-8", "replace")


def _steps(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a decoder, sequences opened up."""
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for part in decoder["decoders"] for step in _steps(part)]


def _space(steps: list[dict[str, Any]]) -> str | None:
    """The character that stands for a space in the vocabulary, if one does."""
    for step in steps:
        if step["type"] == "Metaspace":
            return str(step["replacement"])
        if step["type"] == "Replace" and step["content"] == " ":
            return str(step["pattern"].get("String", "")) or None
    return None


def _byte_level() -> dict[str, int]:
    """Byte-level vocabularies write each byte as one visible character: itself where it is one, else the next
    from U+0100 on.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    alphabet = {chr(byte): byte for byte in visible}
    return alphabet | {chr(0x100 + index): byte for index, byte in enumerate(hidden)}
