"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from server.api.schema.common import (
    MAX_TOKENS,
    Answer,
    Body,
    Content,
    GuidanceReport,
    GuidedTokens,
    Only,
    SamplingFields,
    Usage,
)
from server.api.schema.structure import (
    MAX_TOOLS,
    ResponseFormat,
    SaidToolCall,
    ToolCall,
    ToolCallDelta,
    ToolChoices,
    ToolDefinition,
)


class ChatMessage(Body):
    """One message of a chat. ``name`` and ``tool_call_id`` reach the chat template, which may show them. The content may
    be null where the assistant made tool calls. OpenAI's client adds ``parsed`` to what it sends back; it says the same.
    """

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: Content | None = None
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    refusal: Annotated[Any, Only()] = None
    tool_calls: Annotated[tuple[SaidToolCall, ...], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    parsed: Any = None
    function_call: Annotated[Any, Only()] = None
    audio: Annotated[Any, Only()] = None
    annotations: Annotated[Any, Only([])] = None

    @property
    def text(self) -> str:
        """The content as one string; parts are joined by a line break."""
        if self.content is None:
            return ""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class ChatCompletionRequest(SamplingFields):
    """POST /v1/chat/completions."""

    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1, max_length=4096, fail_fast=True)]

    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20, description="needs logprobs: true")] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    response_format: ResponseFormat | None = None
    tools: Annotated[tuple[ToolDefinition, ...], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoices | None = None
    parallel_tool_calls: Annotated[bool, Field(description="false: one call at most")] | None = None

    # Would change the answer and are not offered.
    functions: Annotated[Any, Only([])] = None
    function_call: Annotated[Any, Only("none")] = None
    modalities: Annotated[Any, Only(["text"])] = None
    audio: Annotated[Any, Only()] = None
    moderation: Annotated[Any, Only()] = None
    prediction: Annotated[Any, Only()] = None
    reasoning_effort: Annotated[Any, Only("none")] = None
    verbosity: Annotated[Any, Only()] = None
    web_search_options: Annotated[Any, Only()] = None
    chat_template: Annotated[Any, Only()] = None
    chat_template_kwargs: Annotated[Any, Only({})] = None


class TopLogprob(Answer):
    """One of the most likely tokens: as text, and the bytes it stands for, which may be part of a character."""

    token: str
    logprob: float
    bytes: list[int]


class ContentLogprob(TopLogprob):
    """A token of the answer, log-probs being those of the mix before penalties, bias and temperature."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """A choice's tokens, the one that ended it included."""

    content: list[ContentLogprob]
    refusal: None


class AnswerMessage(Answer):
    """The whole answer; the content is null where it is tool calls and nothing else."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(Answer):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]
    token_ids: list[int] | None = None
    guidance: GuidedTokens | None = None


class ChatCompletion(Answer):
    """The response of a request that does not stream."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | None = None
    guidance: GuidanceReport


class Delta(Answer):
    """What a chunk adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChunkChoice(Answer):
    """One answer's part of a chunk."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"] | None
    token_ids: list[int] | None = None
    guidance: GuidedTokens | None = None


class ChatCompletionChunk(Answer):
    """One event of a stream. ``guidance`` is on the chunk that ends the last choice, ``prompt_token_ids`` on the
    first.
    """

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = None
    guidance: GuidanceReport | None = None
