"""POST /v1/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from server.api.schema.common import (
    MAX_TOKENS,
    Answer,
    GuidanceReport,
    GuidedTokens,
    Only,
    SamplingFields,
    TokenId,
    Usage,
)

MAX_PROMPTS = 2048
MAX_PROMPT_TOKENS = 1 << 20


def _kind(value: object) -> str:
    if not isinstance(value, list | tuple):
        return "~text"
    if value and isinstance(value[0], str):
        return "~texts"
    return "~lists" if value and isinstance(value[0], list | tuple) else "~tokens"


TokenIds = Annotated[tuple[TokenId, ...], Field(min_length=1, max_length=MAX_PROMPT_TOKENS, fail_fast=True)]
Prompt = Annotated[
    Annotated[str, Tag("~text")]
    | Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("~texts")]
    | Annotated[TokenIds, Tag("~tokens")]
    | Annotated[
        tuple[TokenIds, ...], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("~lists")
    ],
    Discriminator(_kind),
]
"""A text, several, the token ids of one, or of several."""


class CompletionRequest(SamplingFields):
    """POST /v1/completions. Every member reads the prompt's tokens as they are, without a template."""

    prompt: Prompt

    max_tokens: (
        Annotated[int, Field(ge=0, le=MAX_TOKENS, description="16 unless given; 0 needs echo")] | None
    ) = None
    best_of: Annotated[int, Field(ge=1, le=128, description="at least n, not with stream")] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None

    # Would change the answer and is not offered.
    suffix: Annotated[Any, Only()] = None

    @property
    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        """One prompt or several as several."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return (self.prompt,)
        return self.prompt


class CompletionLogprobs(Answer):
    """A choice's tokens, the one that ended it included, and with ``echo`` the prompt's, of which nothing
    predicts the first. ``top_logprobs`` has the best and the token itself by their texts; of two with one text,
    the likelier.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Answer):
    """One answer, or in a stream what a chunk adds to it. ``finish_reason`` is null until its last chunk."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None
    guidance: GuidedTokens | None = None


class Completion(Answer):
    """The response, or one event of a stream; then ``guidance`` is on the chunk that ends the last choice."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    guidance: GuidanceReport | None = None
