"""Prompts a member has read, kept for later ones that begin alike.

What is kept are whole chunks of the grid on which prompts are computed, so a copy has the bits that reading again would give.
Tokens are compared, not hashes of them, and only prompts with the same salt are: what one tenant sent is never felt by another.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from server.engine.cache.context_cache import ContextCache


@dataclass(frozen=True, slots=True)
class Prefix:
    """``tokens`` at the beginning of a context, whose keys and values lie in the row of ``owner``; kept for ``tenant``."""

    owner: Hashable
    salt: Hashable
    tokens: tuple[int, ...]
    tenant: str


class PrefixCache:
    """The kept prefixes of one member, in rows of its cache that go when anything else needs the room.

    Args:
        cache: where they lie.
        chunk: the grid, in tokens.
        blocks: room they may take at most; 0 keeps nothing.

    Looking one up goes through all of them, comparing a chunk of each: some 0.1 us for every one that begins differently.
    """

    def __init__(self, cache: ContextCache, chunk: int, blocks: int) -> None:
        self._cache = cache
        self._chunk = chunk
        self._blocks = blocks
        self._prefixes: list[Prefix] = []  # used longest ago first; some of their rows may be gone

    def find(self, salt: Hashable, tokens: Sequence[int]) -> tuple[Hashable, int] | None:
        """The owner of the row that shares most with ``tokens``, and how many of its tokens, whole chunks.

        At least the last token is left to compute, for its logits. None where not even a chunk is shared.
        """
        wanted = self._whole(tokens[:-1])
        shared = [(self._shared(prefix, wanted), prefix) for prefix in self._alive() if prefix.salt == salt]
        length, best = max(shared, key=lambda pair: pair[0], default=(0, None))
        if best is None or not length:
            return None
        self._touch(best)
        return best.owner, length

    def keep(self, salt: Hashable, tokens: Sequence[int], owner: Hashable, tenant: str = "") -> None:
        """Copy the whole chunks of ``tokens`` from the row of ``owner``; nothing where they are kept or there is no room.

        Where there is too little, the tenant that has most loses what it used longest ago.
        """
        whole = self._whole(tokens)
        if not whole or not self._cache.fits(len(whole)):
            return
        self._prefixes = self._alive()
        for prefix in self._prefixes:
            if prefix.salt == salt and self._shared(prefix, whole) == len(whole):
                self._touch(prefix)
                return
        kept = Prefix(object(), salt, whole, tenant)
        if not self._make_room(kept):
            return
        self._cache.reserve(kept.owner, len(whole))
        try:
            self._cache.copy(owner, kept.owner, len(whole))
        except Exception:  # out of memory; nobody else knows this owner
            self._cache.free(kept.owner)
            raise
        self._cache.offer(kept.owner)
        self._prefixes.append(kept)

    def _whole(self, tokens: Sequence[int]) -> tuple[int, ...]:
        return tuple(tokens[: len(tokens) // self._chunk * self._chunk])

    def _alive(self) -> list[Prefix]:
        return [prefix for prefix in self._prefixes if prefix.owner in self._cache]

    def _shared(self, prefix: Prefix, wanted: tuple[int, ...]) -> int:
        """Tokens of whole chunks with which both begin."""
        most = min(len(prefix.tokens), len(wanted))
        for start in range(0, most, self._chunk):
            end = start + self._chunk
            if prefix.tokens[start:end] != wanted[start:end]:
                return start
        return most

    def _make_room(self, kept: Prefix) -> bool:
        """Drop what ``kept`` holds too, then of who has most what was used longest ago, until it fits into what prefixes may
        take; False, and nothing dropped, where it never does."""
        needed = self._room(kept)
        if needed > self._blocks:
            return False
        for prefix in self._prefixes:
            if prefix.salt == kept.salt and self._shared(prefix, kept.tokens) == len(prefix.tokens):
                self._cache.free(prefix.owner)
        self._prefixes = self._alive()
        taken = Counter({kept.tenant: needed})
        for prefix in self._prefixes:
            taken[prefix.tenant] += self._room(prefix)
        while taken.total() > self._blocks:
            oldest = max(self._prefixes, key=lambda prefix: taken[prefix.tenant])  # of equals the first
            self._prefixes.remove(oldest)
            self._cache.free(oldest.owner)
            taken[oldest.tenant] -= self._room(oldest)
        return True

    def _room(self, prefix: Prefix) -> int:
        """Blocks it takes; where prefixes share some, more than all of them do."""
        return self._cache.blocks_for(len(prefix.tokens))

    def _touch(self, prefix: Prefix) -> None:
        """It was of use: others go first."""
        self._cache.touch(prefix.owner)
        self._prefixes.remove(prefix)
        self._prefixes.append(prefix)
