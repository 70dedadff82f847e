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
def text_or_list(value: object) -> str:
    return "~list" if isinstance(value, list | tuple) else "~text"


class TextPart(Body):
    """One part of a message's content; only text is offered."""

    type: Literal["text"]
    text: str


Content = Annotated[
    Annotated[str, Tag("~text")] | Annotated[tuple[TextPart, ...], Tag("~list")], Discriminator(text_or_list)
]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Stops = Annotated[
    Annotated[Stop, Tag("~text")] | Annotated[tuple[Stop, ...], Field(max_length=16), Tag("~list")],
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
    report: Annotated[Any, Only("none")] = None

    @property
    def parameters(self) -> dict[str, Any]:
        """The method's own keys; null is as good as absent."""
        return {key: value for key, value in (self.model_extra or {}).items() if value is not None}


Preferences = Annotated[
    dict[str, float], Field(max_length=256, description="α per reward model; 0 is off, negative steers away")
]


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


class ErrorDetail(Answer):
    """What went wrong; ``param`` is the field at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Answer):
    """Every answer that is not 2xx."""

    error: ErrorDetail
