"""Bodies of requests and responses: OpenAI's names and shapes, ours beside them.

Every request field is honoured, harmless and accepted, or refused by name. Any optional field may be null.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    Tag,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

MAX_TOKENS = 2**31 - 1
INT64 = 2**63


class Body(BaseModel):
    """A JSON object from a client: unknown fields are refused, types are not coerced, numbers are finite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Answer(BaseModel):
    """A JSON object to a client; only the fields that were set are sent, null where they were set to None."""

    model_config = ConfigDict(frozen=True)


class Only:
    """Marks a field of OpenAI's or vLLM's that would change the answer and is not offered: neutral values
    pass, others are a 400.
    """

    def __init__(self, *neutral: object) -> None:
        self._neutral = (None, *neutral)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Checks the value after pydantic has parsed it."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The neutral values."""
        return {"enum": list(self._neutral)}

    def _check(self, value: object) -> object:
        if any(_same(value, neutral) for neutral in self._neutral):
            return value
        raise PydanticCustomError("not_offered", "is not offered by this server")


def _same(value: object, other: object) -> bool:
    numbers = (int, float)
    if type(value) in numbers and type(other) in numbers:
        return value == other
    return type(value) is type(other) and value == other


# The tags of unions begin with "~" so that they can be told from the fields on an error's path.
def _text_or_list(value: object) -> str:
    return "~list" if isinstance(value, list | tuple) else "~text"


class TextPart(Body):
    """One part of a message's content; only text is offered."""

    type: Literal["text"]
    text: str


Content = Annotated[
    Annotated[str, Tag("~text")] | Annotated[tuple[TextPart, ...], Tag("~list")], Discriminator(_text_or_list)
]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Stops = Annotated[
    Annotated[Stop, Tag("~text")] | Annotated[tuple[Stop, ...], Field(max_length=16), Tag("~list")],
    Discriminator(_text_or_list),
]


class ChatMessage(Body):
    """One message of a chat. ``name`` and ``tool_call_id`` reach the chat template, which may show them."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: Content
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    refusal: Annotated[Any, Only()] = None
    tool_calls: Annotated[Any, Only([])] = None
    function_call: Annotated[Any, Only()] = None
    audio: Annotated[Any, Only()] = None
    annotations: Annotated[Any, Only([])] = None

    @property
    def text(self) -> str:
        """The content as one string; parts are joined by a line break."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class StreamOptions(Body):
    """What a stream sends besides the text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class GuidanceFields(BaseModel):
    """How the preferences act. Further keys belong to the method (see /v1/preferences)."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)

    method: str | None = None
    report: Annotated[Any, Only("none")] = None

    @property
    def parameters(self) -> dict[str, Any]:
        """The method's own keys; null is as good as absent."""
        return {key: value for key, value in (self.model_extra or {}).items() if value is not None}


Preferences = Annotated[
    dict[str, float], Field(max_length=256, description="α per reward model; 0 is off, negative steers away")
]


class ChatCompletionRequest(Body):
    """POST /v1/chat/completions."""

    model: str
    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1, max_length=4096)]

    preferences: Preferences | None = None
    guidance: GuidanceFields | None = None

    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKENS, description="0 and -1: off")] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    stop: Stops | None = None
    stop_token_ids: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=64)] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # Accepted because clients send them; they do not change the answer.
    store: bool | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None

    # Would change the answer and are not offered.
    n: Annotated[Any, Only(1)] = None
    logprobs: Annotated[Any, Only(False)] = None
    top_logprobs: Annotated[Any, Only()] = None
    logit_bias: Annotated[Any, Only({})] = None
    presence_penalty: Annotated[Any, Only(0)] = None
    frequency_penalty: Annotated[Any, Only(0)] = None
    repetition_penalty: Annotated[Any, Only(1)] = None
    min_tokens: Annotated[Any, Only(0)] = None
    include_stop_str_in_output: Annotated[Any, Only(False)] = None
    return_token_ids: Annotated[Any, Only(False)] = None
    response_format: Annotated[Any, Only({"type": "text"})] = None
    tools: Annotated[Any, Only([])] = None
    tool_choice: Annotated[Any, Only("none")] = None
    functions: Annotated[Any, Only([])] = None
    function_call: Annotated[Any, Only("none")] = None
    modalities: Annotated[Any, Only(["text"])] = None
    audio: Annotated[Any, Only()] = None
    prediction: Annotated[Any, Only()] = None
    reasoning_effort: Annotated[Any, Only()] = None
    verbosity: Annotated[Any, Only()] = None
    web_search_options: Annotated[Any, Only()] = None
    chat_template: Annotated[Any, Only()] = None
    add_generation_prompt: Annotated[Any, Only(True)] = None
    continue_final_message: Annotated[Any, Only(False)] = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings as a tuple."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else self.stop


class ChangedGuidance(Body):
    """The part of ``guidance`` that a running request can change."""

    beta: Annotated[float, Field(gt=0)] | None = None


class ChangeRequest(Body):
    """PATCH of a running request. ``preferences`` replaces them whole."""

    preferences: Preferences | None = None
    guidance: ChangedGuidance | None = None


class Usage(Answer):
    """Tokens of the base's prompt and of the answer (end-of-text token included)."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Change(Answer):
    """New weights in mid-answer: every token from ``at_token`` on was drawn under them."""

    at_token: int
    preferences: dict[str, float]
    beta: float


class GuidanceReport(Answer):
    """How the answer was guided: what it began with, and each change since."""

    method: str
    preferences: dict[str, float]
    beta: float
    changes: list[Change]
    cancelled: bool


class AnswerMessage(Answer):
    """The whole answer."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(Answer):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(Answer):
    """The response of a request that does not stream."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage
    guidance: GuidanceReport


class Delta(Answer):
    """What a chunk adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None


class ChunkChoice(Answer):
    """One answer's part of a chunk."""

    index: int
    delta: Delta
    logprobs: None
    finish_reason: Literal["stop", "length"] | None


class ChatCompletionChunk(Answer):
    """One event of a stream. ``guidance`` is on the chunk that carries the finish_reason."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    guidance: GuidanceReport | None = None


class RunningState(Answer):
    """A request under way: the weights now, tokens so far."""

    id: str
    object: Literal["chat.completion.state"]
    created: int
    model: str
    status: Literal["queued", "running"]
    tokens: int
    method: str
    preferences: dict[str, float]
    beta: float
    changes: list[Change]


class Changed(Answer):
    """The answer to a PATCH."""

    id: str
    object: Literal["chat.completion.change"]
    at_token: int
    preferences: dict[str, float]
    beta: float


class Cancelled(Answer):
    """The answer to a DELETE."""

    id: str
    object: Literal["chat.completion.deleted"]
    deleted: Literal[True]


class ErrorDetail(Answer):
    """What went wrong; ``param`` is the field at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Answer):
    """Every answer that is not 2xx."""

    error: ErrorDetail
