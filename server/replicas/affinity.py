"""Which requests are alike: those of one key here began with the same text, so that whoever has read it once need not again.

Kept prompts do not depend on weights, so neither does the key; they are apart by API key, so it is too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import from_json

SESSION_HEADER = "x-session-id"
"""Says itself which requests belong together."""

RAW_CHARACTERS = 512
RAW_TOKENS = 128
"""Of a raw prompt, what is looked at: about what is kept of a prompt at least. Prompts that go on differently after that have
something in common all the same."""

ANYWHERE = ""
"""The key of a request that is as well answered by one replica as by another."""


def affinity_key(path: str, session: str | None, owner: str, body: bytes) -> str:
    """Requests with the same key are best answered by the same replica; ``ANYWHERE`` where that makes no difference.

    A session (``session``, what the request's header says) is one thing whatever is asked in it; else a ``prompt_cache_key`` is;
    else a chat is known by all that it says up to its first question, and a raw prompt by its beginning.

    Args:
        path: of the URL.
        session: the value of ``SESSION_HEADER``.
        owner: the digest of the API key, "" without one.
        body: JSON; one that cannot be read is as well refused by any replica.
    """
    reader = _READERS.get(path)
    if reader is None:
        return ANYWHERE
    if session:
        return _digest("session", owner, session)
    try:
        fields = from_json(body, allow_inf_nan=True)
    except ValueError:
        return ANYWHERE
    if not isinstance(fields, dict):
        return ANYWHERE
    named = fields.get("prompt_cache_key")
    if isinstance(named, str) and named:
        return _digest("named", owner, named)
    parts = list(reader(fields))
    return _digest("prompt", owner, *parts) if parts else ANYWHERE


def _chat(fields: Mapping[str, Any]) -> Iterator[str]:
    yield from _until_question(fields.get("messages"))


def _response(fields: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(fields.get("instructions"), str):
        yield from ("system", fields["instructions"])
    asked = fields.get("input")
    if isinstance(asked, str):
        yield from ("user", asked)
    else:
        yield from _until_question(asked)


def _until_question(messages: object) -> Iterator[str]:
    """Role and text of each message up to the first of a user."""
    if not isinstance(messages, list):
        return
    for message in messages:
        if not isinstance(message, dict):
            return
        yield from (str(message.get("role")), _text(message.get("content")))
        if message.get("role") == "user":
            return


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(
        part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
    )


def _completion(fields: Mapping[str, Any]) -> Iterator[str]:
    """The beginning of the first prompt, which is a text or a list of tokens."""
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, str):
        yield prompt[:RAW_CHARACTERS]
    elif isinstance(prompt, list):
        yield ",".join(str(token) for token in prompt[:RAW_TOKENS] if isinstance(token, int))


_READERS = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/responses": _response,
}


def _digest(*parts: str) -> str:
    """Of the parts, told apart by their lengths."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hashed.update(len(data).to_bytes(8))
        hashed.update(data)
    return hashed.hexdigest()
