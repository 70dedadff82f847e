"""What the bodies of every route share."""

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
    """A JSON object from a client: unknown fields are refused, types are not coerced, numbers are finite.

    Lists in one are ``fail_fast``: one complaint is sent, and making a million of them would hold up everybody.
    """

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
def text_or_list(value: object) -> str:
    return "~list" if isinstance(value, list | tuple) else "~text"


class TextPart(Body):
    """One part of a message's content; only text is offered."""

    type: Literal["text"]
    text: str


Content = Annotated[
    Annotated[str, Tag("~text")] | Annotated[tuple[TextPart, ...], Field(fail_fast=True), Tag("~list")],
    Discriminator(text_or_list),
]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Stops = Annotated[
    Annotated[Stop, Tag("~text")]
    | Annotated[tuple[Stop, ...], Field(max_length=16, fail_fast=True), Tag("~list")],
    Discriminator(text_or_list),
]


class StreamOptions(Body):
    """What a stream sends besides the text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class GuidanceFields(BaseModel):
    """How the preferences act. Further keys belong to the method (see /v1/preferences)."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)

    method: str | None = None
    report: Literal["none", "summary", "tokens"] | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """The method's own keys; null is as good as absent."""
        return {key: value for key, value in (self.model_extra or {}).items() if value is not None}


Preferences = Annotated[
    dict[str, float],
    Field(
        max_length=256,
        description="α per reward model, or what guidance.method weighs; 0 is off, negative steers away",
    ),
]

TokenId = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class SamplingFields(Body):
    """What every route that generates text takes besides its input."""

    model: str

    preferences: Preferences | None = None
    guidance: GuidanceFields | None = None

    n: Annotated[int, Field(ge=1, le=128, description="answers to one prompt; deployments cap it")] | None = (
        None
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKENS, description="0 and -1: off")] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    logit_bias: (
        Annotated[dict[str, Bias], Field(max_length=1024, description="token id → what its logit gains")]
        | None
    ) = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100, description="1: off")] | None = None
    stop: Stops | None = None
    stop_token_ids: Annotated[tuple[TokenId, ...], Field(max_length=64, fail_fast=True)] | None = None
    include_stop_str_in_output: bool | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS, description="nothing stops it before")] | None = (
        None
    )
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None

    # Accepted because clients send them; they do not change the answer.
    store: bool | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None

    # Would change the answer and are not offered.
    skip_special_tokens: Annotated[Any, Only(True)] = None
    spaces_between_special_tokens: Annotated[Any, Only(True)] = None
    prompt_logprobs: Annotated[Any, Only()] = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings as a tuple."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else self.stop

    @property
    def report(self) -> Literal["none", "summary", "tokens"]:
        """How much is told about what guidance did."""
        return (self.guidance and self.guidance.report) or "none"


class PromptTokensDetails(Answer):
    """Of the prompt tokens, those that did not have to be computed."""

    cached_tokens: int


class CompletionTokensDetails(Answer):
    """Of the answer's tokens, those that are not part of what it says, and those that the server had guessed ahead; last,
    wrong guesses, which are in no other count.
    """

    reasoning_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class SearchUsage(Answer):
    """What it took to find the answers: tokens drawn, those of texts that were not chosen included; tokens of texts that were
    scored, each time anew; sequences of the engine. ``score`` is the answer's, or the best answer's; null where there is none.
    """

    generated_tokens: int
    scored_tokens: int
    engine_requests: int
    score: float | None


class Usage(Answer):
    """Tokens of the base's prompts, each counted once, and of the answers (end-of-text tokens included)."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails
    search: SearchUsage | None = None


class ChoiceChange(Answer):
    """The token of one choice from which a change holds."""

    index: int
    at_token: int


class Change(Answer):
    """New weights in mid-answer: every token from ``at_token`` on was drawn under them. Where there are
    several choices, ``choices`` has each one's own token, and ``at_token`` is the largest.
    """

    at_token: int
    choices: list[ChoiceChange] | None = None
    preferences: dict[str, float]
    beta: float


class GuidanceReport(Answer):
    """How the answer was guided: what it began with (``max_kl`` where it was given, and in ``parameters`` what the request
    set of the method's own), and each change since.

    With ``guidance.report`` also what guidance did, over the tokens of all choices: KL(guided ‖ base) per token
    in nats, the share of tokens where the base's favourite is not the mix's (both null without tokens), and the
    summed log-probs of the answer under each other model that was weighted and under the base.
    """

    method: str
    preferences: dict[str, float]
    beta: float
    max_kl: float | None = None
    parameters: dict[str, Any] | None = None
    changes: list[Change]
    cancelled: bool
    mean_kl: float | None = None
    flip_rate: float | None = None
    rewards: dict[str, float] | None = None
    base_logprob: float | None = None


class GuidedToken(Answer):
    """What guidance did to one token: KL(guided ‖ base) in nats, log-probs under the base and each weighted
    reward, and the token the base alone likes best. ``scale`` is what ``guidance.max_kl`` left of the weights, where
    it is given.
    """

    token: str
    kl: float
    base_logprob: float
    rewards: dict[str, float]
    base_top: str
    scale: float | None = None


class GuidedTokens(Answer):
    """``guidance`` of one choice, with ``guidance.report`` = "tokens"."""

    tokens: list[GuidedToken]


class ErrorDetail(Answer):
    """What went wrong; ``param`` is the field at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Answer):
    """Every answer that is not 2xx."""

    error: ErrorDetail
