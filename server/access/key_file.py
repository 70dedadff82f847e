"""The file of API keys: plain keys, one a line, or YAML with a key's hash and what it may do."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, StringConstraints, ValidationError

from arm_models.errors import UserError
from server.config import Bounds, Count, Name, Section, UniqueKeys, complaint

Hash = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]

_PLAIN = re.compile(r"[!-~]+")
_DECLARED = re.compile(r"^keys[ \t]*:", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key: its SHA-256, never the key. What it may do is as in ``Caller``."""

    name: str
    digest: bytes
    admin: bool = False
    max_concurrent: int | None = None
    presets: frozenset[str] | None = None
    ranges: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)


class DeclaredKey(Section):
    """A key as the file declares it."""

    name: Name
    hash: Hash
    admin: Annotated[bool, Field(strict=True)] = False
    max_concurrent: Count | None = None
    presets: tuple[str, ...] | None = None
    ranges: Mapping[Name, Bounds] = Field(default_factory=dict)

    @property
    def entry(self) -> KeyEntry:
        """The key."""
        return KeyEntry(
            name=self.name,
            digest=bytes.fromhex(self.hash.removeprefix("sha256:")),
            admin=self.admin,
            max_concurrent=self.max_concurrent,
            presets=None if self.presets is None else frozenset(self.presets),
            ranges=self.ranges,
        )


class DeclaredKeys(Section):
    """The whole file."""

    keys: Annotated[tuple[DeclaredKey, ...], Field(min_length=1)]


def digest(key: bytes) -> bytes:
    """What is kept of a key, and compared."""
    return hashlib.sha256(key).digest()


def plain_key(key: str, name: str) -> KeyEntry:
    """A key that may do whatever the deployment allows everybody."""
    return KeyEntry(name, digest(key.encode()))


def read_key_file(path: str) -> tuple[KeyEntry, ...]:
    """The keys in ``path``: YAML where a line begins with ``keys:``; else a key a line, where empty lines and lines that
    begin with # do not count.

    Raises:
        UserError: the file cannot be read, holds no key or something else than keys. The message holds nothing of the file
            but names.
    """
    source = f"api_key_file {path}"
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{source}: cannot be read: {reason}") from None
    entries = _declared(text, source) if _DECLARED.search(text) else _plain(text, source)
    _check_apart(entries, source)
    return entries


def _plain(text: str, source: str) -> tuple[KeyEntry, ...]:
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        # A misspelt YAML file must not become a file of keys that can be guessed.
        if not _PLAIN.fullmatch(key):
            raise UserError(f"{source}: line {number}: a key is printable ASCII without spaces")
        entries.append(plain_key(key, f"line-{number}"))
    if not entries:
        raise UserError(f"{source}: holds no key (one per line, or YAML with `keys:`)")
    return tuple({entry.digest: entry for entry in entries}.values())


def _declared(text: str, source: str) -> tuple[KeyEntry, ...]:
    try:
        declared: Any = yaml.load(text, Loader=UniqueKeys)
        return tuple(key.entry for key in DeclaredKeys.model_validate(declared).keys)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise UserError(f"{source}: {complaint(first['loc'], first['type'], first['msg'])}") from None
    except (yaml.YAMLError, ValueError) as error:
        # Not the error's own text: it quotes the file.
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" in line {mark.line + 1}"
        raise UserError(f"{source}: cannot be read as YAML{place}") from None


def _check_apart(entries: Sequence[KeyEntry], source: str) -> None:
    """No two entries have one name or one key."""
    names: dict[str, str] = {}
    digests: dict[bytes, str] = {}
    for entry in entries:
        if entry.name in names:
            raise UserError(f"{source}: the name '{entry.name}' is used twice")
        if entry.digest in digests:
            raise UserError(f"{source}: '{digests[entry.digest]}' and '{entry.name}' are the same key")
        names[entry.name] = digests[entry.digest] = entry.name
