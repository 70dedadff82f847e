"""Which requests are alike: they began with the same text, so that whoever has read it once need not again.

Kept prompts do not depend on weights, so neither do the keys here; they are apart by API key, so these are too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic_core import from_json

SESSION_HEADER = "x-session-id"
"""Says itself which requests belong together."""

CHARACTERS = 512
TOKENS = 128
"""Of a prompt, what its beginning is: about what is kept of a prompt at least. Prompts that go on differently after that have
something in common all the same."""

ANYWHERE = ""
"""The key of a request that is as well answered by one replica as by another."""


class Likeness(NamedTuple):
    """What a request has in common with others, as keys; ``ANYWHERE`` where that makes no difference.

    Attributes:
        beginning: requests with the same one have at least a beginning in common.
        conversation: those with the same one are of one conversation, as far as can be told.
    """

    beginning: str = ANYWHERE
    conversation: str = ANYWHERE


def likeness(path: str, session: str | None, owner: str, body: bytes) -> Likeness:
    """What this request has in common with others.

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
        return Likeness()
    if session:
        return _of_one(_digest("session", owner, session))
    try:
        fields = from_json(body, allow_inf_nan=True)
    except ValueError:
        return Likeness()
    if not isinstance(fields, dict):
        return Likeness()
    named = fields.get("prompt_cache_key")
    if isinstance(named, str) and named:
        return _of_one(_digest("named", owner, named))
    parts = list(reader(fields))
    if not parts:
        return Likeness()
    return Likeness(_digest("prompt", owner, *_first(parts)), _digest("prompt", owner, *parts))


def _of_one(key: str) -> Likeness:
    return Likeness(key, key)


def _first(parts: Iterable[str]) -> Iterator[str]:
    """As much of the parts as has ``CHARACTERS`` together."""
    left = CHARACTERS
    for part in parts:
        yield part[:left]
        left -= len(part)
        if left <= 0:
            return


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
    return "\n".join(  # as the app does
        part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
    )


def _completion(fields: Mapping[str, Any]) -> Iterator[str]:
    """The beginning of the first prompt, which is a text or a list of tokens."""
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, str):
        yield prompt[:CHARACTERS]
    elif isinstance(prompt, list):
        # A character for each, so that they count as text does.
        yield "".join(chr(token % 0x110000) for token in prompt[:TOKENS] if isinstance(token, int))


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
