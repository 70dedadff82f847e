"""Sequences that have ended and whose contexts stay readable, for others that go on from them."""

from collections.abc import Mapping

from server.engine.cache.context_cache import ContextCache
from server.engine.sequence import Sequence


class Held:
    """Owns them until they are released. Their contexts count as free: each goes when its cache needs the room."""

    def __init__(self, caches: Mapping[str, ContextCache]) -> None:
        self._caches = caches
        self._sequences: dict[str, Sequence] = {}

    def __contains__(self, sequence_id: str) -> bool:
        return sequence_id in self._sequences

    def get(self, sequence_id: str) -> Sequence | None:
        """The sequence held under this id, if there is one; of its contexts some may be gone."""
        return self._sequences.get(sequence_id)

    def reads(self, member: str) -> bool:
        """Whether one of them has a prompt for ``member``."""
        return any(member in sequence.contexts for sequence in self._sequences.values())

    def add(self, sequence: Sequence) -> None:
        """Hold a sequence that has ended."""
        self._sequences[sequence.id] = sequence
        for member in self._present(sequence):
            self._caches[member].offer(sequence.id)

    def touch(self, sequence_id: str) -> None:
        """It is of use: others go first. Nothing for an id that is not held."""
        sequence = self._sequences.get(sequence_id)
        if sequence is not None:
            for member in self._present(sequence):
                self._caches[member].touch(sequence_id)

    def release(self, sequence_id: str) -> None:
        """Give back what is left of it; an unknown one is left as it is."""
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is not None:
            for member in self._present(sequence):
                self._caches[member].free(sequence_id)

    def _present(self, sequence: Sequence) -> list[str]:
        """Members whose cache still has its context."""
        return [member for member in sequence.contexts if sequence.id in self._caches[member]]
