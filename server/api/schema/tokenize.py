"""POST /tokenize and /detokenize, GET /tokenizer_info: vLLM's names."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, RootModel, StringConstraints, Tag

from server.api.schema.chat import ChatMessage
from server.api.schema.common import Answer, Body, Only
from server.api.schema.structure import MAX_TOOLS, ToolDefinition

LONGEST_TEXT = 2**18
MOST_TOKENS = 2**19
"""Characters or tokens of one request: what holds up everybody's tokenizing for half a second to a second."""


class TokenizeText(Body):
    """A text as it is; special tokens that it spells out are read as such."""

    model: str | None = None
    prompt: Annotated[str, StringConstraints(max_length=LONGEST_TEXT)]
    add_special_tokens: Annotated[bool, Field(description="null: true")] | None = None
    return_token_strs: bool | None = None


class TokenizeChat(Body):
    """A chat as the base's template renders it; the template writes the special tokens."""

    model: str | None = None
    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1, max_length=4096, fail_fast=True)]
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    tools: Annotated[tuple[ToolDefinition, ...], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    return_token_strs: bool | None = None

    add_special_tokens: Annotated[Any, Only(False)] = None
    chat_template: Annotated[Any, Only()] = None
    chat_template_kwargs: Annotated[Any, Only({})] = None


def _text_or_chat(body: object) -> str:
    return "~chat" if isinstance(body, dict) and "messages" in body else "~text"


class TokenizeRequest(
    RootModel[
        Annotated[
            Annotated[TokenizeText, Tag("~text")] | Annotated[TokenizeChat, Tag("~chat")],
            Discriminator(_text_or_chat),
        ]
    ]
):
    """POST /tokenize: a prompt or messages."""


class Tokenized(Answer):
    """The tokens; ``max_model_len`` is what prompt and answer may have together. ``token_strs`` holds them as
    the vocabulary writes them, where that was asked for.
    """

    count: int
    max_model_len: int
    tokens: tuple[int, ...]
    token_strs: tuple[str, ...] | None


class DetokenizeRequest(Body):
    """POST /detokenize."""

    model: str | None = None
    tokens: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=MOST_TOKENS, fail_fast=True)]


class Detokenized(Answer):
    """The text, special tokens spelled out."""

    prompt: str


class TokenizerInfo(Answer):
    """What a client needs to treat text and chats as the base does; tokens as they are spelled."""

    tokenizer_class: str
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    additional_special_tokens: tuple[str, ...]
    chat_template: str | None
    model_max_length: int
