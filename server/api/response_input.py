"""What a response is asked for, as a chat."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from server.api import schema
from server.api.schema.responses import (
    ChosenTools,
    FunctionTool,
    InputCall,
    InputCallOutput,
    InputContent,
    InputMessage,
    ResponseRequest,
    TextFormat,
)
from server.api.schema.structure import (
    MAX_TOOLS,
    AllowedTools,
    FunctionName,
    JsonSchema,
    NamedTool,
    ResponseFormat,
    SaidFunction,
    SaidToolCall,
    ToolChoice,
    ToolDefinition,
    ToolFunction,
)
from server.errors import InvalidRequest

SAME = frozenset(schema.SamplingFields.model_fields) - {"stream_options", "store", "n", "return_token_ids"}
"""Fields that a chat has under the same name with the same meaning."""

NAMES = (
    (re.compile(r"^messages$"), "input"),
    (re.compile(r"^max_(completion_)?tokens$"), "max_output_tokens"),
    (re.compile(r"^response_format\.json_schema\.schema\b"), "text.format.schema"),
    (re.compile(r"^response_format(\.json_schema)?\b"), "text.format"),
    (re.compile(r"^(tools\[\d+\])\.function\b"), r"\1"),
    (re.compile(r"^tool_choice\.allowed_tools\b"), "tool_choice"),
    (re.compile(r"^(tool_choice(\.tools\[\d+\])?)\.function\b"), r"\1"),
)
"""Fields of a chat, and what they are called here; the messages know what they were themselves."""


class AskedChat:
    """The chat that a response's request asks for.

    Raises:
        InvalidRequest: fields do not fit together.
    """

    def __init__(self, body: ResponseRequest) -> None:
        self._messages: list[schema.ChatMessage] = []
        self._origins: dict[str, str] = {}  # field of the chat → field it came from
        self._read(body)
        self.body = schema.ChatCompletionRequest(
            **{name: getattr(body, name) for name in SAME},
            messages=tuple(self._messages),
            max_completion_tokens=body.max_output_tokens,
            logprobs=body.logprobs,
            top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            response_format=_format(body.text.format if body.text else None),
            tools=tuple(map(_tool, body.tools)) if body.tools else None,
            tool_choice=_choice(body.tool_choice),
            parallel_tool_calls=body.parallel_tool_calls,
        )

    @contextmanager
    def named(self) -> Iterator[None]:
        """Errors about fields of the chat name the fields they came from."""
        try:
            yield
        except InvalidRequest as error:
            if error.param is not None:
                own = self._origin(error.param)
                error.message = error.message.replace(f"'{error.param}'", f"'{own}'")
                error.param = own
            raise

    def _origin(self, param: str) -> str:
        for field in sorted(self._origins, key=len, reverse=True):
            if param == field or param.startswith((f"{field}.", f"{field}[")):
                return self._origins[field] + param[len(field) :]
        for pattern, name in NAMES:
            param = pattern.sub(name, param)
        return param

    def _read(self, body: ResponseRequest) -> None:
        if body.instructions is not None:
            self._say("instructions", role="developer", content=body.instructions)
        if isinstance(body.input, str):
            self._say("input", role="user", content=body.input)
            return
        for index, item in enumerate(body.input):
            origin = f"input[{index}]"
            if isinstance(item, InputMessage):
                self._say(origin, role=item.role, content=_content(item.content))
            elif isinstance(item, InputCallOutput):
                self._say(origin, role="tool", content=_content(item.output), tool_call_id=item.call_id)
            else:
                self._call(origin, item)

    def _say(self, origin: str, **message: Any) -> None:
        self._origins[f"messages[{len(self._messages)}]"] = origin
        self._messages.append(schema.ChatMessage(**message))

    def _call(self, origin: str, item: InputCall) -> None:
        """A call is part of the assistant's message that it follows, as are the calls after it."""
        last = self._messages[-1] if self._messages else None
        if last is None or last.role != "assistant" or len(last.tool_calls or ()) == MAX_TOOLS:
            self._say(origin, role="assistant", content=None, tool_calls=())
            last = self._messages[-1]
        calls = last.tool_calls or ()
        field = f"messages[{len(self._messages) - 1}].tool_calls[{len(calls)}]"
        self._origins[field] = self._origins[f"{field}.function"] = origin
        function = SaidFunction(name=item.name, arguments=item.arguments)
        call = SaidToolCall(id=item.call_id, type="function", function=function)
        self._messages[-1] = last.model_copy(update={"tool_calls": (*calls, call)})


def _content(content: InputContent) -> str | tuple[schema.TextPart, ...]:
    if isinstance(content, str):
        return content
    return tuple(schema.TextPart(type="text", text=part.text) for part in content)


def _format(format: TextFormat | None) -> ResponseFormat | None:
    if format is None:
        return None
    given = {"name": format.name, "schema": format.schema_}
    if format.type != "json_schema":
        for field, value in {**given, "description": format.description, "strict": format.strict}.items():
            if value is not None:
                raise InvalidRequest(
                    f"'text.format.{field}' needs 'text.format.type' to be 'json_schema'.",
                    param=f"text.format.{field}",
                )
        return ResponseFormat(type=format.type)
    for field, value in given.items():
        if value is None:
            param = f"text.format.{field}"
            raise InvalidRequest(f"Missing required field '{param}'.", param=param, code="missing_field")
    described = format.model_dump(include={"name", "description", "schema_", "strict"})
    return ResponseFormat(type="json_schema", json_schema=JsonSchema(**described))


def _tool(tool: FunctionTool) -> ToolDefinition:
    return ToolDefinition(type="function", function=ToolFunction(**tool.model_dump(exclude={"type"})))


def _choice(choice: str | ChosenTools | None) -> Any:
    """The chat's choice; it checks that it is one."""
    if not isinstance(choice, ChosenTools):
        return choice
    fields: Mapping[str, Any] = {"name": choice.name, "mode": choice.mode, "tools": choice.tools}
    wanted = ["name"] if choice.type == "function" else ["mode", "tools"]
    for field, value in fields.items():
        if (value is None) == (field in wanted):
            raise InvalidRequest(
                f"'tool_choice' of type '{choice.type}' has the fields {' and '.join(wanted)}.",
                param=f"tool_choice.{field}",
            )
    if choice.name is not None:
        return ToolChoice(type="function", function=FunctionName(name=choice.name))
    assert choice.mode is not None and choice.tools is not None, "checked above"
    tools = tuple(NamedTool(type="function", function=FunctionName(name=tool.name)) for tool in choice.tools)
    return ToolChoice(type="allowed_tools", allowed_tools=AllowedTools(mode=choice.mode, tools=tools))
