"""The messages of a chat as chat templates see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json

from server.api import schema
from server.errors import InvalidRequest
from server.structured import ToolCall
from server.text import Message


def template_messages(messages: Sequence[schema.ChatMessage]) -> list[Message]:
    """What a chat template sees; it knows "system", of which "developer" is the newer name.

    Raises:
        InvalidRequest: a message says nothing, is not its role's, or its calls have arguments that are no JSON object.
    """
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: schema.ChatMessage, at: str) -> Message:
    calls = message.tool_calls or ()
    if calls and message.role != "assistant":
        raise InvalidRequest("Only messages of the assistant have 'tool_calls'.", param=f"{at}.tool_calls")
    if message.content is None and not calls and "content" not in message.model_fields_set:
        param = f"{at}.content"
        raise InvalidRequest(f"Missing required field '{param}'.", param=param, code="missing_field")
    if message.content is None and not calls:
        param = f"{at}.content"
        raise InvalidRequest(
            f"'{param}' must be a string or a list of text parts; null goes only with 'tool_calls'.",
            param=param,
        )
    role = "system" if message.role == "developer" else message.role
    shown: dict[str, Any] = {"role": role, "content": message.text}
    if message.name is not None:
        shown["name"] = message.name
    if message.tool_call_id is not None:
        shown["tool_call_id"] = message.tool_call_id
    if calls:
        shown["tool_calls"] = [_call(call, f"{at}.tool_calls[{i}]") for i, call in enumerate(calls)]
    return shown


def _call(call: schema.SaidToolCall, at: str) -> ToolCall:
    text = call.function.arguments or "{}"  # clients send "" for a function without arguments
    try:
        arguments = from_json(text, allow_inf_nan=False)  # as strict as the body around it
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        param = f"{at}.function.arguments"
        raise InvalidRequest(f"'{param}' must be the JSON text of an object.", param=param)
    return ToolCall(call.id, call.function.name, text)
