"""What a chat's answers must look like: response formats and tools, and the tool calls in messages."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, StringConstraints, Tag
from pydantic_core import PydanticCustomError

from server.api.schema.common import Answer, Body

MAX_TOOLS = 128

Name = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


def _finite(schema: dict[str, Any]) -> dict[str, Any]:
    """Other fields have types that see to it."""
    pending: list[Any] = [schema]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)
        elif isinstance(part, float) and not math.isfinite(part):
            raise PydanticCustomError("not_finite", "Numbers should be finite")
    return schema


Schema = Annotated[dict[str, Any], AfterValidator(_finite)]
"""A JSON schema; what it may hold is checked where it is made into a grammar."""


class JsonSchema(Body):
    """The JSON schema of an answer. It is enforced whether ``strict`` or not."""

    model_config = ConfigDict(populate_by_name=True)

    name: Name
    description: str | None = None
    schema_: Annotated[Schema, Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Body):
    """The form of an answer: any text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ToolFunction(Body):
    """A function that the model may call. Its arguments follow ``parameters`` whether ``strict`` or not."""

    name: Name
    description: str | None = None
    parameters: Annotated[
        Schema | None,
        Field(description="JSON schema of an object; without it there are no arguments"),
    ] = None
    strict: bool | None = None


class ToolDefinition(Body):
    """A tool; only functions are offered."""

    type: Literal["function"]
    function: ToolFunction

    @property
    def shown(self) -> dict[str, Any]:
        """What the chat template gets."""
        function = self.function.model_dump(exclude_none=True, exclude={"strict"})
        return {"type": "function", "function": function}


class FunctionName(Body):
    """One function by its name."""

    name: str


class NamedTool(Body):
    """One of ``tools``."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(Body):
    """Those of ``tools`` that may be called, or one of which must be."""

    mode: Literal["auto", "required"]
    tools: Annotated[tuple[NamedTool, ...], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)]


class ToolChoice(Body):
    """A function that must be called, or those that may be."""

    type: Literal["function", "allowed_tools"]
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None


# The tags of unions begin with "~" so that they can be told from the fields on an error's path.
def _mode_or_object(value: object) -> str:
    return "~mode" if isinstance(value, str) else "~object"


ToolChoices = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("~mode")] | Annotated[ToolChoice, Tag("~object")],
    Discriminator(_mode_or_object),
]


class SaidFunction(Body):
    """The function that an earlier answer called; ``arguments`` is the JSON text of an object.

    OpenAI's client adds ``parsed_arguments`` to what it sends back; it says the same.
    """

    name: Name
    arguments: str
    parsed_arguments: Any = None


class SaidToolCall(Body):
    """A call in an earlier answer; its ``index`` comes from streams that are sent back as they were."""

    index: int | None = None
    id: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    type: Literal["function"]
    function: SaidFunction


class CalledFunction(Answer):
    """What is called; ``arguments`` is the JSON text of an object."""

    name: str
    arguments: str


class ToolCall(Answer):
    """A call in an answer."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class CalledFunctionDelta(Answer):
    """The name comes with a call's first delta, the arguments piece by piece."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(Answer):
    """What a chunk adds to the call ``index``."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: CalledFunctionDelta
