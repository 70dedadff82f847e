"""What the base's second context reads where a request has one."""

from __future__ import annotations

from collections.abc import Sequence

from server.decoding import Negative
from server.errors import InvalidRequest
from server.text import Message

PROMPT = "guidance.negative_prompt"
MESSAGES = "guidance.negative_messages"


def negative_chat(chat: Sequence[Message], negative: Negative, *, goes_on: bool) -> list[Message]:
    """The messages that stand in place of ``chat``; ``goes_on``: the answer goes on with the last one.

    Raises:
        InvalidRequest: the answer cannot go on with the last of its messages.
    """
    if negative.messages is not None:
        if goes_on and negative.messages[-1]["role"] != "assistant":
            raise InvalidRequest(
                f"'continue_final_message' needs a last message by the assistant in '{MESSAGES}' too.",
                param=MESSAGES,
            )
        return [{**message, "role": _role(message["role"])} for message in negative.messages]
    system = {"role": "system", "content": negative.prompt}
    for place, message in enumerate(chat):
        if message["role"] == "system":
            return [*chat[:place], system, *chat[place + 1 :]]
    return [system, *chat]


def negative_text(negative: Negative) -> str:
    """The text that stands in place of a completion's prompt.

    Raises:
        InvalidRequest: it is a chat.
    """
    if negative.prompt is None:
        raise InvalidRequest(f"'{MESSAGES}' is for chats; send '{PROMPT}'.", param=MESSAGES)
    return negative.prompt


def blamed(error: InvalidRequest, negative: Negative) -> InvalidRequest:
    """``error`` about a prompt, said of the field that this prompt came from."""
    error.param = PROMPT if negative.prompt is not None else MESSAGES
    return error


def _role(role: str) -> str:
    return "system" if role == "developer" else role
