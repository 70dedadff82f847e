"""A preference pair, and the pieces of a row that every form is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


class RowError(Exception):
    """A row that cannot be used; the message begins with the field. The reader adds file and line."""


class Tie(Exception):
    """A row whose two answers are equally good: there is nothing to learn from it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A prompt, the preferred answer (y^w) and the other one (y^l), both as plain text.

    messages: the prompt as a conversation, rendered with the model's chat template. text: the prompt as raw text,
    tokenised as it is. Where both are there, a model without a chat template gets the text, and the answer behind it
    begins with ``joint``.
    """

    messages: tuple[Message, ...] | None
    text: str | None
    chosen: str
    rejected: str
    joint: str = ""

    @property
    def prompt_key(self) -> str:
        """The same for two pairs exactly when they have the same prompt."""
        if self.messages is None:
            return f"text\0{self.text}"
        return "\0".join(part for message in self.messages for part in (message.role, message.content))


@dataclass(frozen=True)
class Format:
    """A form of preference data: how its rows are recognised, and how one becomes a pair.

    name: for `--dataset_format`. columns: what its rows hold, for help and errors. matches: is a row, by its columns,
    of this form? pair: raises RowError naming the field, Tie where neither answer is preferred.
    """

    name: str
    columns: str
    matches: Callable[[Row], bool]
    pair: Callable[[Row], PreferencePair]


def text_field(row: Row, field: str) -> str:
    """``row[field]``, which has to be text; raises RowError."""
    if field not in row:
        raise RowError(f"{field}: missing")
    value = row[field]
    if not isinstance(value, str):
        raise RowError(f"{field}: must be text, got {_kind(value)}")
    return value


def messages_field(row: Row, field: str) -> tuple[Message, ...]:
    """``row[field]``, which has to be a non-empty list of {role, content}; raises RowError."""
    if field not in row:
        raise RowError(f"{field}: missing")
    value = row[field]
    if not isinstance(value, list) or not value:
        raise RowError(f"{field}: must be a list of messages, got {_kind(value)}")
    return tuple(_message(item, f"{field}[{index}]") for index, item in enumerate(value))


def whole_number_field(row: Row, field: str, allowed: range) -> int:
    """``row[field]``, which has to be a whole number in ``allowed``; raises RowError."""
    if field not in row:
        raise RowError(f"{field}: missing")
    value = row[field]
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in allowed:
        raise RowError(f"{field}: must be a whole number from {allowed[0]} to {allowed[-1]}, got {value!r}")
    return int(value)


def _message(item: Any, field: str) -> Message:
    if not isinstance(item, dict):
        raise RowError(f"{field}: must be a message {{role, content}}, got {_kind(item)}")
    for key in ("role", "content"):
        if not isinstance(item.get(key), str):
            raise RowError(f"{field}.{key}: must be text, got {_kind(item.get(key))}")
    return Message(item["role"], item["content"])


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, dict):
        return "an object"
    return "text" if isinstance(value, str) else repr(value)[:60]
