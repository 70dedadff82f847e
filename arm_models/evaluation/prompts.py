"""The prompts that are answered: the demo world's held-out conversations, or a file of one's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arm_models.demo.world.conversations import Conversation, held_out_conversations
from arm_models.errors import UserError

Messages = tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class PromptSet:
    """Prompts, and what is known of them.

    ``source``: as a sweep's file holds it, enough to make the same prompts again. ``conversations``: the demo's, with the
    questions that its oracles need; None for other prompts.
    """

    messages: tuple[Messages, ...]
    source: Mapping[str, Any]
    conversations: tuple[Conversation, ...] | None = None


def demo_prompts(count: int, seed: int) -> PromptSet:
    """``count`` held-out conversations of the demo world."""
    conversations = held_out_conversations(count, seed)
    messages = tuple(conversation.messages for conversation in conversations)
    return PromptSet(messages, {"demo": {"prompts": count, "seed": seed}}, conversations)


def file_prompts(path: Path, most: int | None = None) -> PromptSet:
    """The first ``most`` lines of a JSONL file: {"messages": [{"role", "content"}, …]}, or {"prompt": text} for one user turn.

    ``instruction`` is read as ``prompt`` is. Raises ``UserError`` naming the file, the line and the field.
    """
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: cannot be read: {reason}") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()][:most]
    if not numbered:
        raise UserError(f"{path}: no prompts in it")
    messages = tuple(_messages(line, f"{path} line {number}") for number, line in numbered)
    digest = hashlib.sha256(json.dumps(messages).encode()).hexdigest()
    return PromptSet(messages, {"file": path.name, "prompts": len(messages), "sha256": digest})


def from_source(source: Mapping[str, Any]) -> PromptSet | None:
    """The demo's prompts again from what a sweep's file says; None where they came from a file of one's own."""
    demo = source.get("demo")
    return None if demo is None else demo_prompts(int(demo["prompts"]), int(demo["seed"]))


def _messages(line: str, at: str) -> Messages:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f"{at}: not JSON") from None
    if not isinstance(row, dict):
        raise UserError(f"{at}: must be an object with messages or prompt")
    if "messages" not in row:
        text = row.get("prompt", row.get("instruction"))
        if not isinstance(text, str) or not text:
            raise UserError(f"{at}: needs messages, or a prompt that is text")
        return ({"role": "user", "content": text},)
    messages = row["messages"]
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise UserError(f"{at}: messages must be a list of {{role, content}}, both text")
    return tuple({"role": message["role"], "content": message["content"]} for message in messages)


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def instruction(messages: Sequence[Mapping[str, str]]) -> str:
    """A conversation as one text: its only user turn as it is, else each turn behind who speaks."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
