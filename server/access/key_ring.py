"""API keys to callers, in constant time; follows the file of keys as it changes."""

from __future__ import annotations

import hmac
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from arm_models.errors import UserError
from server.access.caller import Caller
from server.access.key_file import KeyEntry, digest, read_key_file
from server.access.ranges import Range, intersected
from server.config import Deployment

LOOK_SECONDS = 1.0
"""Seconds between two looks at the file."""

LOG = logging.getLogger("genarm")

_State = tuple[int, ...]


class KeyRing:
    """Who may use a server. Used from one thread.

    The file ``http.api_key_file`` is looked at when somebody calls, at most once in ``LOOK_SECONDS``, and read again when it
    has changed. One that cannot be used leaves the keys as they were and is told once. Whoever changes the deployment says
    so with ``use``.

    Args:
        deployment: names the file, the presets and the ranges that hold for everybody.
        keys: instead of those of a file.
        clock: seconds.

    Raises:
        UserError: the file cannot be used; names the key at fault.
    """

    def __init__(
        self,
        deployment: Deployment,
        keys: Sequence[KeyEntry] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = None if keys else deployment.http.api_key_file
        self._clock = clock
        self._looked = clock()
        self._state = None if self._path is None else _state(self._path)
        self._is_refused = False  # what the file holds now
        self._entries = tuple(keys) if self._path is None else read_key_file(self._path)
        self._deployment = deployment
        self._anonymous, self._holders = _callers(deployment, self._entries)

    @property
    def required(self) -> bool:
        """Whether a caller needs a key."""
        return bool(self._holders)

    def has_several(self) -> bool:
        """Whether there are callers to be told apart."""
        return len(self._holders) > 1

    def caller(self, key: bytes) -> Caller | None:
        """Whose key this is; without keys, anybody's. None: nobody's."""
        self._look()
        if not self._holders:
            return self._anonymous
        given, found = digest(key), None
        # Every key is compared, in constant time: how long it takes tells nothing.
        for known, holder in self._holders:
            if hmac.compare_digest(known, given):
                found = holder
        return found

    def bounding(self, name: str) -> tuple[str, ...]:
        """The names of the keys whose ``ranges`` bound the weight of ``name``."""
        return tuple(entry.name for entry in self._entries if name in entry.ranges)

    def use(self, deployment: Deployment) -> None:
        """From now on callers may what ``deployment`` and their keys allow. A file that could not be used may be of use now:
        it is read again. Keys that name what ``deployment`` has not stay as they are until the file changes.
        """
        self._deployment = deployment
        if self._is_refused:
            self._state, self._looked = None, -math.inf
        try:
            self._anonymous, self._holders = _callers(deployment, self._entries)
        except UserError as error:
            LOG.error("%s; what keys may do stays as it was", error)

    def _look(self) -> None:
        """Follows the file."""
        now = self._clock()
        if self._path is None or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        # Before it is read: a change while that goes on is seen at the next look.
        state = _state(self._path)
        if state == self._state:
            return
        self._state = state
        try:
            entries = read_key_file(self._path)
            self._anonymous, self._holders = _callers(self._deployment, entries)
        except UserError as error:
            self._is_refused = True
            LOG.error("%s; the keys stay as they were", error)
            return
        self._is_refused = False
        LOG.info("api_key_file: read again, %d keys (%s)", len(entries), _difference(self._entries, entries))
        self._entries = entries


def _callers(
    deployment: Deployment, entries: Sequence[KeyEntry]
) -> tuple[Caller, tuple[tuple[bytes, Caller], ...]]:
    """Who calls without a key, and each key's digest with its holder."""
    everybody = {name: Range.of(bounds) for name, bounds in deployment.weight_ranges.items()}
    holders = tuple((entry.digest, _holder(entry, deployment, everybody)) for entry in entries)
    return Caller(ranges=everybody), holders


def _holder(entry: KeyEntry, deployment: Deployment, everybody: dict[str, Range]) -> Caller:
    for preset in sorted(entry.presets or ()):
        if preset not in deployment.presets:
            known = ", ".join(deployment.presets) or "none"
            raise UserError(
                f"api_key_file: key '{entry.name}': no preset is called '{preset}' (known: {known})"
            )
    for name in entry.ranges:
        if name not in deployment.weighed_names:
            known = ", ".join(deployment.weighed_names) or "none"
            raise UserError(
                f"api_key_file: key '{entry.name}': nothing weighed is called '{name}' (known: {known})"
            )
    own = {name: Range.of(bounds) for name, bounds in entry.ranges.items()}
    try:
        ranges = intersected(everybody, own)
    except ValueError as error:
        raise UserError(
            f"api_key_file: key '{entry.name}': ranges: {error}, as weight_ranges has it"
        ) from None
    return Caller(
        owner=entry.digest.hex(),
        name=entry.name,
        admin=entry.admin,
        max_concurrent=entry.max_concurrent,
        presets=entry.presets,
        ranges=ranges,
    )


def _state(path: str) -> _State | None:
    """What changes with the file, whoever writes it and however; None where it is not there."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _difference(before: Sequence[KeyEntry], after: Sequence[KeyEntry]) -> str:
    """By name, for the log."""
    old, new = {entry.digest: entry.name for entry in before}, {entry.digest: entry.name for entry in after}
    added = [name for key, name in new.items() if key not in old]
    removed = [name for key, name in old.items() if key not in new]
    parts = [
        f"{word} {', '.join(names)}" for word, names in (("added", added), ("removed", removed)) if names
    ]
    return "; ".join(parts) or "none added, none removed"
