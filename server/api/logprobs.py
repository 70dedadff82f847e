"""Log-probs as the two routes write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from server.api import schema
from server.api.choice import Token
from server.api.tally import finite
from server.text import RawPrompt, TokenBytes

if TYPE_CHECKING:
    from server.engine import TokenLogprobs


def chat_logprobs(tokens: Iterable[Token], token_bytes: TokenBytes) -> schema.ChatLogprobs:
    """Of ``tokens``, which were asked for with log-probs."""

    def entry(id: int, logprob: float) -> dict[str, Any]:
        raw = token_bytes.of(id)
        return {
            "token": raw.decode("utf-8", "replace"),
            "logprob": finite(logprob),
            "bytes": list(raw),
        }

    content = [
        schema.ContentLogprob(
            **entry(token.id, token.logprobs.logprob),
            top_logprobs=[schema.TopLogprob(**entry(*best)) for best in token.logprobs.top],
        )
        for token in tokens
        if token.logprobs is not None
    ]
    return schema.ChatLogprobs(content=content, refusal=None)


class CompletionLogprobs:
    """Collects the log-probs of a completion's tokens in the order of its text.

    ``begin`` is the character of the choice's text at which the answer begins.
    """

    def __init__(self, token_bytes: TokenBytes, begin: int = 0) -> None:
        self._token_bytes = token_bytes
        self._begin = begin
        self._tokens: list[str] = []
        self._logprobs: list[float | None] = []
        self._tops: list[dict[str, float] | None] = []
        self._offsets: list[int] = []

    def prompt(self, prompt: RawPrompt, logprobs: Sequence[TokenLogprobs | None]) -> None:
        """The tokens of an echoed prompt."""
        for token, offset, own in zip(prompt.tokens, prompt.offsets, logprobs, strict=True):
            self._add(token, offset, own)

    def answer(self, tokens: Iterable[Token]) -> None:
        """Tokens of the answer."""
        for token in tokens:
            self._add(token.id, self._begin + token.offset, token.logprobs)

    def take(self) -> schema.CompletionLogprobs | None:
        """What was collected; None when that is nothing."""
        return self.all() if self._tokens else None

    def all(self) -> schema.CompletionLogprobs:
        """What was collected."""
        return schema.CompletionLogprobs(
            tokens=self._tokens,
            token_logprobs=self._logprobs,
            top_logprobs=self._tops,
            text_offset=self._offsets,
        )

    def _add(self, token: int, offset: int, logprobs: TokenLogprobs | None) -> None:
        self._tokens.append(self._token_bytes.text(token))
        self._offsets.append(offset)
        if logprobs is None:
            self._logprobs.append(None)
            self._tops.append(None)
            return
        top: dict[str, float] = {}
        # Best first and the token itself last: where texts are the same, the likelier one stays.
        for id, logprob in (*logprobs.top, (token, logprobs.logprob)):
            top.setdefault(self._token_bytes.text(id), finite(logprob))
        self._logprobs.append(finite(logprobs.logprob))
        self._tops.append(top)
