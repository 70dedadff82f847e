"""The ids of answers."""

from __future__ import annotations

import secrets
from collections.abc import Callable

NewId = Callable[[str], str]
"""A prefix (``chatcmpl-``, ``cmpl-``, ``resp_``) → an id that begins with it and that nobody can guess."""


def random_id(prefix: str) -> str:
    """An id that says nothing but what kind of answer it is of."""
    return f"{prefix}{secrets.token_hex(16)}"
