"""Rows of a cache in slabs: what is written when they are put in order.

The rules are those of ``server/engine/cache/kv_cache.py`` (``RowStore``). Rows of one capacity lie side by side; a slab that is
full grows by half, which writes all of it anew, and where the budget is short of that every other slab first gives back what it
does not use, which writes those anew. With a cache that is nearly full these are the longest steps there are.
"""

from collections.abc import Mapping, Sequence

from server.simulation.limits import BLOCK, Limits


class Slabs:
    """Of one or several members' caches, with a budget of ``blocks``.

    Args:
        allocated: by capacity in blocks, rows for which there is memory already.
    """

    def __init__(self, blocks: int, allocated: Mapping[int, int] | None = None) -> None:
        self.blocks = blocks
        self._rows = dict(allocated or {})
        self._used = dict.fromkeys(self._rows, 0)

    @property
    def allocated_blocks(self) -> int:
        """Blocks for which there is memory, used or not."""
        return sum(capacity * rows for capacity, rows in self._rows.items())

    def append(self, capacity: int) -> int:
        """One more row of so many blocks; tokens that are written to make room for it."""
        rows, used = self._rows.setdefault(capacity, 0), self._used.setdefault(capacity, 0)
        written = 0
        if used == rows:
            if self._spare(capacity) < 1:
                written = self._trim()
            more = min(max(4, rows // 2), self._spare(capacity))
            written += self._resize(capacity, self._rows[capacity] + more)
        self._used[capacity] += 1
        return written * BLOCK

    def remove(self, capacity: int) -> None:
        """One row less."""
        self._used[capacity] -= 1

    def _spare(self, capacity: int) -> int:
        return (self.blocks - self.allocated_blocks) // capacity

    def _trim(self) -> int:
        return sum(
            self._resize(capacity, self._used[capacity])
            for capacity, rows in self._rows.items()
            if rows > self._used[capacity]
        )

    def _resize(self, capacity: int, rows: int) -> int:
        """Blocks that are written: zeros in all rows, and those in use over that."""
        self._rows[capacity] = rows
        return capacity * (rows + self._used[capacity])


def slabs_of(limits: Limits, stores: Sequence[int]) -> list[Slabs | None]:
    """By member, the slabs its rows lie in: the same for members of the same store; None where caches are in pages."""
    if limits.cache == "pages":
        return [None for _ in stores]
    made = {store: Slabs(limits.blocks * stores.count(store)) for store in stores}
    return [made[store] for store in stores]
