"""Instructions rewritten by the model itself: what it is asked, and how its list is read back."""

from __future__ import annotations

import re
from collections.abc import Sequence

from server.decoding.search.action import Message

_ITEM = re.compile(r"^\s*\d{1,3}\s*[.):]\s*(\S.*)$")


def rewriting_chat(instruction: str, count: int) -> list[Message]:
    """A chat whose answer is ``count`` rewordings of ``instruction`` as a numbered list."""
    text = (
        f"Below is an instruction. Write {count} other versions of it that ask for the same thing in clearer words: add a "
        "detail that is missing, leave out one that is not needed, or put it differently. Do not answer the instruction. "
        f"Give the {count} versions as a numbered list, one a line, and nothing else.\n\n"
        f"Instruction: {instruction}"
    )
    return [{"role": "user", "content": text}]


def read_rewriting(text: str, count: int) -> list[str] | None:
    """The first ``count`` items of a numbered list; None where there are fewer."""
    matches = (_ITEM.match(line) for line in text.splitlines())
    items = [match.group(1).strip() for match in matches if match is not None]
    return items[:count] if len(items) >= count else None


def instruction_of(messages: Sequence[Message]) -> str | None:
    """The last user turn of a chat, if it ends with one."""
    if not messages or messages[-1].get("role") != "user":
        return None
    return str(messages[-1]["content"])


def with_instruction(messages: Sequence[Message], instruction: str) -> list[Message]:
    """The chat with its last turn in other words."""
    return [*messages[:-1], {**messages[-1], "content": instruction}]
