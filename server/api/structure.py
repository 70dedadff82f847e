"""What the answers of one chat must look like, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from server.api.message import Message
from server.api.schema import ChatCompletionRequest, ToolDefinition
from server.api.schema import ToolChoice as NamedChoice
from server.api.serving import Serving
from server.api.tool_message import ToolMessage
from server.errors import InvalidRequest, clip, known
from server.runtime import Runtime
from server.structured import (
    FormatError,
    Tool,
    ToolChoice,
    ToolFormat,
    ToolReader,
    check_schema,
    format_marks,
    json_schema,
    tool_grammar,
)

if TYPE_CHECKING:
    from server.engine import Grammar

SCHEMA = "response_format.json_schema.schema"
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True)
class Form:
    """What ``Structure.form`` finds: what answers must match, and the special tokens that are part of their text."""

    grammar: Grammar | None = None
    shown: frozenset[int] = frozenset()


class Structure:
    """The form that a request asks of its answers: a response format, tools, both or none.

    Raises:
        InvalidRequest: what it asks for cannot be, as far as that can be told from the body.
    """

    def __init__(self, body: ChatCompletionRequest) -> None:
        self._schema = _schema(body)
        self._format: ToolFormat | None = None
        self._choice = _choice(body)
        self._tools = body.tools or () if self._choice else ()
        self._ends = not body.ignore_eos
        self._answers = body.n or 1
        self._called = any(message.tool_calls for message in body.messages)

    @property
    def tools(self) -> Sequence[Mapping[str, Any]] | None:
        """The tools as chat templates get them; None where there are none to call."""
        return [tool.shown for tool in self._tools] or None

    async def form(self, server: Serving, runtime: Runtime, owner: str) -> Form:
        """What the engine and the detokenizer need to know; worked out in the turn of ``owner``.

        Raises:
            InvalidRequest: a schema is not supported, or the served model's template not fit for tools.
            Unavailable: other requests' schemas take too long.
        """
        if self._choice is None:
            if self._called:  # a member that does not show calls reads them as the base writes them
                await self._read_format(server, runtime, owner, required=False)
            if self._schema is None:
                return Form()
            return Form(await self._compiled(server, json_schema(self._schema, SCHEMA), SCHEMA, owner))
        format = await self._read_format(server, runtime, owner, required=True)
        assert format is not None, "it is required"
        choice = self._choice
        if self._schema is not None and choice.mode == "auto" and format.marker is None:
            raise InvalidRequest(
                "This model's tool calls cannot be told from JSON: 'response_format' needs 'tool_choice' to be 'none' here.",
                param="response_format",
            )
        tools = [Tool(tool.function.name, tool.function.parameters) for tool in self._tools]
        vocabulary = server.grammars.vocabulary
        grammar, shown = await server.grammars.run(
            lambda: (
                tool_grammar(format, tools, choice, vocabulary, self._schema),
                format_marks(format, vocabulary),
            ),
            param="tools",
            owner=owner,
        )
        return Form(await self._compiled(server, grammar, "tools", owner), shown)

    def message(self) -> Message:
        """What a choice's text is made into; ``form`` comes first."""
        if self._choice is None or self._format is None:
            return Message()
        forced = self._choice.mode != "auto"
        reader = ToolReader(self._format, forced=forced, opening=self._schema is not None)
        return ToolMessage(reader, named=self._choice.mode == "named")

    async def _compiled(self, server: Serving, grammar: str, param: str, owner: str) -> Grammar:
        return await server.grammars.compile(
            grammar, param=param, ends=self._ends, answers=self._answers, owner=owner
        )

    async def _read_format(
        self, server: Serving, runtime: Runtime, owner: str, *, required: bool
    ) -> ToolFormat | None:
        ends = server.grammars.vocabulary.end_texts
        try:
            self._format = await server.tokenizers.run(partial(runtime.tokenizer.tool_format, ends), owner)
        except FormatError as error:
            if required:
                raise InvalidRequest(f"'tools' is not offered: {error}.", param="tools") from None
        return self._format


def _schema(body: ChatCompletionRequest) -> Mapping[str, Any] | None:
    """The JSON schema that answers follow; None where they are any text."""
    asked = body.response_format
    if asked is None:
        return None
    if asked.type != "json_schema":
        if asked.json_schema is not None:
            raise InvalidRequest(
                "'response_format.json_schema' needs 'response_format.type' to be 'json_schema'.",
                param="response_format.json_schema",
            )
        return ANY_OBJECT if asked.type == "json_object" else None
    if asked.json_schema is None:
        raise InvalidRequest(
            "Missing required field 'response_format.json_schema'.",
            param="response_format.json_schema",
            code="missing_field",
        )
    check_schema(asked.json_schema.schema_, SCHEMA)
    return asked.json_schema.schema_


def _choice(body: ChatCompletionRequest) -> ToolChoice | None:
    """What is to be called; None where there is nothing to call or nothing may be called."""
    names = _names(body.tools or ())
    asked, parallel = body.tool_choice, body.parallel_tool_calls is not False
    if not names:
        if asked not in (None, "none", "auto"):
            raise InvalidRequest("'tool_choice' is only allowed with 'tools'.", param="tool_choice")
        return None
    if asked is None or asked == "auto":
        return ToolChoice("auto", names, parallel)
    if asked == "none":
        return None
    if asked == "required":
        return ToolChoice("required", names, parallel)
    assert isinstance(asked, NamedChoice), "the schema has no other"
    return _chosen(asked, names, parallel)


def _chosen(asked: NamedChoice, names: frozenset[str], parallel: bool) -> ToolChoice:
    given = {"function": asked.function, "allowed_tools": asked.allowed_tools}
    if [field for field, value in given.items() if value is not None] != [asked.type]:
        raise InvalidRequest(
            f"'tool_choice' of type '{asked.type}' has the field '{asked.type}' and no other.",
            param=f"tool_choice.{asked.type}",
        )
    if asked.function is not None:
        _check_known(asked.function.name, names, "tool_choice.function.name")
        return ToolChoice("named", frozenset({asked.function.name}), parallel)
    assert asked.allowed_tools is not None, "checked above"
    allowed = [tool.function.name for tool in asked.allowed_tools.tools]
    for index, name in enumerate(allowed):
        _check_known(name, names, f"tool_choice.allowed_tools.tools[{index}].function.name")
    return ToolChoice(asked.allowed_tools.mode, frozenset(allowed), parallel)


def _check_known(name: str, names: frozenset[str], param: str) -> None:
    if name not in names:
        raise InvalidRequest(
            f"'{param}' is '{clip(name)}', which is none of 'tools': {clip(known(sorted(names)))}.",
            param=param,
        )


def _names(tools: Sequence[ToolDefinition]) -> frozenset[str]:
    names: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.function.name in names:
            param = f"tools[{index}].function.name"
            raise InvalidRequest(f"'{param}' is the name of another tool.", param=param)
        names.add(tool.function.name)
    return frozenset(names)
