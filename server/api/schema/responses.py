"""POST /v1/responses: OpenAI's newer shape of a chat, without any state."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, RootModel, StringConstraints, Tag
from pydantic_core import PydanticCustomError

from server.api.schema.chat import ContentLogprob
from server.api.schema.common import (
    MAX_TOKENS,
    Answer,
    Body,
    GuidanceReport,
    Only,
    SamplingFields,
    SearchUsage,
    text_or_list,
)
from server.api.schema.structure import MAX_TOOLS, Name, Schema

LOGPROBS = "message.output_text.logprobs"


class Stateless(Only):
    """Marks a field that asks for something to be kept."""

    def _check(self, value: object) -> object:
        try:
            return super()._check(value)
        except PydanticCustomError:
            raise PydanticCustomError(
                "not_offered", "is not offered: nothing is stored here, send the whole input each time"
            ) from None


Kept = Annotated[tuple[dict[str, Any], ...], Field(fail_fast=True)]


class InputPart(Body):
    """Text of a message: "input_text" where it was said to the model, "output_text" where the model said it.

    What an earlier response held beside the text may stay; models do not read it.
    """

    type: Literal["input_text", "output_text"]
    text: str
    annotations: Kept | None = None
    logprobs: Kept | None = None
    prompt_cache_breakpoint: dict[str, Any] | None = None


InputContent = Annotated[
    Annotated[str, Tag("~text")] | Annotated[tuple[InputPart, ...], Field(fail_fast=True), Tag("~list")],
    Discriminator(text_or_list),
]


ItemStatus = Literal["in_progress", "completed", "incomplete"]
ItemId = Annotated[str, StringConstraints(max_length=256)]
CallId = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class InputMessage(Body):
    """One message; one of an earlier response's output is one too."""

    # Calls and their outputs have classes of their own: they are here for the error that lists what is allowed.
    type: Literal["message", "function_call", "function_call_output"] = "message"
    role: Literal["developer", "system", "user", "assistant"]
    content: InputContent
    id: ItemId | None = None
    status: ItemStatus | None = None
    phase: Annotated[Any, Only()] = None


class InputCall(Body):
    """A call of an earlier response; ``arguments`` is the JSON text of an object."""

    type: Literal["function_call"]
    call_id: CallId
    name: Name
    arguments: str
    id: ItemId | None = None
    status: ItemStatus | None = None


class InputCallOutput(Body):
    """What a call came to."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: InputContent
    id: ItemId | None = None
    status: ItemStatus | None = None


# The tags of unions begin with "~" so that they can be told from the fields on an error's path.
def _mode_or_object(value: object) -> str:
    return "~mode" if isinstance(value, str) else "~object"


def _item_kind(value: object) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    return {"function_call": "~call", "function_call_output": "~output"}.get(str(kind), "~message")


InputItem = Annotated[
    Annotated[InputMessage, Tag("~message")]
    | Annotated[InputCall, Tag("~call")]
    | Annotated[InputCallOutput, Tag("~output")],
    Discriminator(_item_kind),
]
Items = Annotated[tuple[InputItem, ...], Field(min_length=1, max_length=4000, fail_fast=True)]
Input = Annotated[Annotated[str, Tag("~text")] | Annotated[Items, Tag("~list")], Discriminator(text_or_list)]


class TextFormat(Body):
    """The form of the answer's text: any, any JSON object, or JSON of a schema (then with ``name`` and ``schema``)."""

    model_config = ConfigDict(populate_by_name=True)

    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    description: str | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: Annotated[bool, Field(description="the schema is enforced either way")] | None = None


class TextConfig(Body):
    """How the answer's text is to be."""

    format: TextFormat | None = None
    verbosity: Annotated[Any, Only("medium")] = None


class FunctionTool(Body):
    """A function that the model may call. Its arguments follow ``parameters`` whether ``strict`` or not."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: Annotated[
        Schema | None,
        Field(description="JSON schema of an object; without it there are no arguments"),
    ] = None
    strict: bool | None = None


class NamedFunction(Body):
    """One of ``tools``."""

    type: Literal["function"]
    name: str


class ChosenTools(Body):
    """A function that must be called (``name``), or those that may be (``mode``, ``tools``)."""

    type: Literal["function", "allowed_tools"]
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: (
        Annotated[tuple[NamedFunction, ...], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)] | None
    ) = None


class ReasoningConfig(Body):
    """Nothing here reasons before it answers."""

    effort: Annotated[Any, Only("none")] = None
    summary: Annotated[Any, Only()] = None
    generate_summary: Annotated[Any, Only()] = None
    mode: Annotated[Any, Only("standard")] = None
    context: Annotated[Any, Only("auto")] = None


class ResponseStreamOptions(Body):
    """Accepted because clients send it; it does not change the answer."""

    include_obfuscation: bool | None = None


Metadata = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]],
    Field(max_length=16),
]


class ResponseRequest(SamplingFields):
    """POST /v1/responses."""

    input: Input
    instructions: str | None = None

    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20, description=f"needs '{LOGPROBS}' in include")] | None = (
        None
    )
    include: (
        Annotated[
            tuple[Literal["message.output_text.logprobs", "reasoning.encrypted_content"], ...],
            Field(max_length=16, fail_fast=True),
        ]
        | None
    ) = None
    text: TextConfig | None = None
    tools: Annotated[tuple[FunctionTool, ...], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: (
        Annotated[
            Annotated[Literal["none", "auto", "required"], Tag("~mode")]
            | Annotated[ChosenTools, Tag("~object")],
            Discriminator(_mode_or_object),
        ]
        | None
    ) = None
    parallel_tool_calls: Annotated[bool, Field(description="false: one call at most")] | None = None
    stream_options: ResponseStreamOptions | None = None  # type: ignore[assignment]
    metadata: Metadata | None = None

    # Accepted at their neutral values only.
    store: Annotated[Any, Stateless(False)] = None
    previous_response_id: Annotated[Any, Stateless()] = None
    conversation: Annotated[Any, Stateless()] = None
    background: Annotated[Any, Stateless(False)] = None
    truncation: Annotated[Any, Only("disabled")] = None
    reasoning: ReasoningConfig | None = None
    max_tool_calls: Annotated[Any, Only()] = None
    prompt: Annotated[Any, Only()] = None
    background_options: Annotated[Any, Only()] = None
    context_management: Annotated[Any, Only([])] = None
    moderation: Annotated[Any, Only()] = None
    access_programs: Annotated[Any, Only()] = None
    image: Annotated[Any, Only()] = None
    n: Annotated[Any, Only(1)] = None
    return_token_ids: Annotated[Any, Only(False)] = None

    @property
    def logprobs(self) -> bool:
        """Whether the answer's tokens come with log-probs."""
        return LOGPROBS in (self.include or ())


class InputTokensDetails(Answer):
    """Of the input tokens, those that did not have to be computed, and those kept for later requests."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(Answer):
    """Of the output tokens, those that are not part of what it says."""

    reasoning_tokens: int


class ResponseUsage(Answer):
    """Tokens of the base's prompt and of the answer (end-of-text token included)."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int
    search: SearchUsage | None = None


class OutputText(Answer):
    """What a message says; ``logprobs`` is empty unless asked for."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[ContentLogprob]


class OutputMessage(Answer):
    """A message of the answer."""

    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]


class OutputCall(Answer):
    """A call of a function; ``arguments`` is the JSON text of an object."""

    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


OutputItem = OutputMessage | OutputCall


class IncompleteDetails(Answer):
    """Why a response is not complete."""

    reason: Literal["max_output_tokens"]


class ResponseError(Answer):
    """Why a response failed."""

    code: Literal["server_error"]
    message: str


class ReasoningReport(Answer):
    """Nothing reasons."""

    effort: None
    summary: None


class TextReport(Answer):
    """How the answer's text was to be: as it was asked for."""

    format: dict[str, Any]


class ToolReport(Answer):
    """A tool as it was given; ``strict``, because every schema is enforced."""

    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool


class ResponseObject(Answer):
    """The response: whole, or in a stream as far as it is. ``guidance`` is there once it is over."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    completed_at: int | None
    background: Literal[False]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: None
    prompt_cache_key: str | None
    reasoning: ReasoningReport
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: Literal[False]
    temperature: float
    text: TextReport
    tool_choice: str | dict[str, Any]
    tools: list[ToolReport]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None
    system_fingerprint: str
    guidance: GuidanceReport | None = None


class ResponseEvent(Answer):
    """One event of a stream, numbered from 0 when it is sent."""

    type: str
    sequence_number: int = 0


class ResponseState(ResponseEvent):
    """response.created, .in_progress, .completed, .incomplete or .failed."""

    response: ResponseObject


class ItemEvent(ResponseEvent):
    """response.output_item.added or .done."""

    output_index: int
    item: OutputItem


class PartEvent(ResponseEvent):
    """response.content_part.added or .done."""

    item_id: str
    output_index: int
    content_index: int
    part: OutputText


class TextDelta(ResponseEvent):
    """response.output_text.delta."""

    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: list[ContentLogprob]


class TextDone(ResponseEvent):
    """response.output_text.done."""

    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: list[ContentLogprob]


class ArgumentsDelta(ResponseEvent):
    """response.function_call_arguments.delta."""

    item_id: str
    output_index: int
    delta: str


class ArgumentsDone(ResponseEvent):
    """response.function_call_arguments.done."""

    item_id: str
    output_index: int
    name: str
    arguments: str


class ResponseChunk(
    RootModel[ResponseState | ItemEvent | PartEvent | TextDelta | TextDone | ArgumentsDelta | ArgumentsDone]
):
    """One event of a stream; ``type`` is also its name."""
