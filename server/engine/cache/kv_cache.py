"""The keys and values one member keeps of every context it is reading.

A context owns one *row*: room for ``capacity`` tokens in a row, in the slab of that capacity. Rows of one slab lie side by
side, so a decode step attends over a slice of the slab without gathering anything::

    slab 64    [layers, K|V, rows, kv_heads, 64, head_dim]     row 0: ctx A   row 1: ctx D
    slab 128   [layers, K|V, rows, kv_heads, 128, head_dim]    row 0: ctx B
    slab 192   …                                               (C outgrew 128 and moved here)

Rows stay compact: when one is freed the last row of its slab takes its place. The length over which a token attends is a
function of its own position alone (:func:`capacity_for`), never of who shares the batch; that is what makes a row's
arithmetic independent of its neighbours.

Memory is counted in blocks of :data:`BLOCK` tokens, and what is allocated never exceeds the budget.

A row that nobody needs may be *offered* instead of freed: it stays readable until its room is needed, and counts as free.

Members that run in one forward keep their rows in one :class:`RowStore`, so that attention covers them in one call. Each has a
:class:`KVCache` of its own with a budget of its own.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

import torch

from server.engine.memory_fault import is_out_of_memory

BLOCK = 64
"""Tokens per block: the smallest row, and the unit in which memory is counted."""


def capacity_for(length: int) -> int:
    """The smallest row capacity that holds ``length`` tokens: ``BLOCK`` times 1, 2, 3, 4, 6, 8, 12, 16, 24 …

    Raises:
        ValueError: ``length`` is below 1.
    """
    if length < 1:
        raise ValueError(f"a row holds at least one token, not {length}")
    blocks = -(-length // BLOCK)
    power = 1 << (blocks - 1).bit_length()
    three_quarters = power // 4 * 3
    return BLOCK * (three_quarters if power >= 4 and blocks <= three_quarters else power)


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one token costs: ``layers x 2 x kv_heads x head_dim`` values of ``dtype`` on ``device``."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values of one token over all layers."""
        return self.layers * 2 * self.kv_heads * self.head_dim * self.dtype.itemsize


@dataclass(slots=True)
class Slab:
    """Rows of one capacity. ``data``: [layers, 2, allocated rows, kv_heads, capacity, head_dim].

    ``owners``: of each row, the cache it belongs to and its owner there.
    """

    capacity: int
    data: torch.Tensor
    owners: list[tuple["KVCache", Hashable]] = field(default_factory=list)

    @property
    def allocated(self) -> int:
        """Rows for which there is memory, used or not."""
        return self.data.shape[2]

    def resize(self, rows: int) -> None:
        """Give the slab memory for ``rows`` rows, keeping those in use."""
        layers, two, _, *row = self.data.shape
        # An ordinary tensor even when a step grows it in inference mode: rows also move between steps.
        with torch.inference_mode(False):
            grown = self.data.new_zeros(layers, two, rows, *row)
        grown[:, :, : len(self.owners)] = self.data[:, :, : len(self.owners)]
        self.data = grown


@dataclass(frozen=True, slots=True)
class Row:
    """Where a context lies. Valid until the cache is next changed."""

    slab: Slab
    index: int


class RowStore:
    """The memory of one or several caches whose tokens have the same shape. It holds what their budgets add up to at most."""

    def __init__(self, shape: KVShape) -> None:
        self.shape = shape
        self.num_blocks = 0
        self._slabs: dict[int, Slab] = {}

    @property
    def slabs(self) -> Iterable[Slab]:
        """Every slab there is."""
        return self._slabs.values()

    @property
    def allocated_blocks(self) -> int:
        """Blocks for which memory is held, used or not; never above ``num_blocks``."""
        return sum(slab.allocated * slab.capacity for slab in self.slabs) // BLOCK

    def append(self, cache: "KVCache", owner: Hashable, capacity: int) -> tuple[Slab, int]:
        """A row of ``capacity`` for ``owner`` of ``cache``, and where it lies."""
        slab = self._slab(capacity)
        if len(slab.owners) == slab.allocated:
            self._grow(slab)
        slab.owners.append((cache, owner))
        return slab, len(slab.owners) - 1

    def remove(self, slab: Slab, index: int) -> None:
        """Free a row; the last one of its slab takes its place."""
        last = len(slab.owners) - 1
        cache, owner = slab.owners.pop()
        if index != last:
            slab.data[:, :, index] = slab.data[:, :, last]
            slab.owners[index] = cache, owner
            cache.moved(owner, slab, index)

    def trim(self) -> None:
        """Give the memory of unused rows back."""
        for slab in self.slabs:
            if slab.allocated > len(slab.owners):
                slab.resize(len(slab.owners))

    def _slab(self, capacity: int) -> Slab:
        if capacity not in self._slabs:
            shape = self.shape
            size = (shape.layers, 2, 0, shape.kv_heads, capacity, shape.head_dim)
            empty = torch.zeros(size, dtype=shape.dtype, device=shape.device)
            self._slabs[capacity] = Slab(capacity, empty)
        return self._slabs[capacity]

    def _grow(self, slab: Slab) -> None:
        """Half as many rows again, so that copies stay rare; less where the budget is short of that."""
        if self._spare_rows(slab) < 1:
            self.trim()
        wanted = max(4, slab.allocated // 2)
        slab.resize(slab.allocated + min(wanted, self._spare_rows(slab)))

    def _spare_rows(self, slab: Slab) -> int:
        return (self.num_blocks - self.allocated_blocks) * BLOCK // slab.capacity


class KVCache:
    """Keys and values of every context of one member, within a budget of tokens."""

    def __init__(self, shape: KVShape, max_tokens: int, store: RowStore | None = None) -> None:
        if max_tokens < BLOCK:
            raise ValueError(f"a cache needs room for at least {BLOCK} tokens, not {max_tokens}")
        self.shape = shape
        self.num_blocks = max_tokens // BLOCK
        self.store = store or RowStore(shape)
        self.store.num_blocks += self.num_blocks
        self._rows: dict[Hashable, tuple[Slab, int]] = {}
        self._used_blocks = 0
        self._offered: OrderedDict[Hashable, None] = OrderedDict()  # used longest ago first
        self._offered_blocks = 0

    def __contains__(self, owner: Hashable) -> bool:
        return owner in self._rows

    @property
    def free_blocks(self) -> int:
        """Blocks that no context owns, and those of offered rows."""
        return self.num_blocks - self._used_blocks + self._offered_blocks

    @property
    def offered_blocks(self) -> int:
        """Blocks of offered rows."""
        return self._offered_blocks

    @property
    def allocated_blocks(self) -> int:
        """Blocks for which the store holds memory, for all its caches."""
        return self.store.allocated_blocks

    def blocks_for(self, length: int) -> int:
        """Blocks of a row of ``length`` tokens."""
        return capacity_for(length) // BLOCK

    def fits(self, length: int) -> bool:
        """Whether a new context of ``length`` tokens would find room now."""
        return self.blocks_for(length) <= self.free_blocks

    def row(self, owner: Hashable) -> Row:
        """Where ``owner``'s row lies now. Raises ``KeyError`` when it has none."""
        return Row(*self._rows[owner])

    def reserve(self, owner: Hashable, length: int) -> bool:
        """Make sure ``owner`` has a row of at least ``length`` tokens; what it already holds is kept.

        Offered rows go where there is no other room. Returns False, with nothing changed, when the budget does not allow it.
        """
        capacity = capacity_for(length)
        held = self._rows.get(owner)
        if held is not None and held[0].capacity >= capacity:
            return True
        held_blocks = held[0].capacity // BLOCK if held else 0
        more = capacity // BLOCK - held_blocks
        if more > self.free_blocks:
            return False
        while more > self.num_blocks - self._used_blocks:
            self.evict()
        if held is None:
            self._append(owner, capacity)
        else:
            self._move(owner, capacity)
        return True

    def copy(self, source: Hashable, target: Hashable, length: int) -> None:
        """Give ``target``, which has room for them, the first ``length`` tokens of ``source``."""
        (giver, place), (taker, index) = self._rows[source], self._rows[target]
        taker.data[:, :, index, :, :length] = giver.data[:, :, place, :, :length]

    def offer(self, owner: Hashable) -> None:
        """``owner``'s row may be taken when there is need. Raises ``KeyError`` when it has none."""
        slab, _ = self._rows[owner]
        self._offered[owner] = None
        self._offered_blocks += slab.capacity // BLOCK

    def touch(self, owner: Hashable) -> None:
        """An offered row was of use: others go first. Raises ``KeyError`` when it is not offered."""
        self._offered.move_to_end(owner)

    def evict(self) -> bool:
        """Free the offered row that was used longest ago; False when there is none."""
        if not self._offered:
            return False
        self.free(next(iter(self._offered)))
        return True

    def free(self, owner: Hashable) -> None:
        """Give ``owner``'s row back; an owner without a row is left as it is."""
        held = self._rows.pop(owner, None)
        if held is None:
            return
        slab, index = held
        if owner in self._offered:
            del self._offered[owner]
            self._offered_blocks -= slab.capacity // BLOCK
        self._used_blocks -= slab.capacity // BLOCK
        self.store.remove(slab, index)

    def moved(self, owner: Hashable, slab: Slab, index: int) -> None:
        """The store has put ``owner``'s row elsewhere."""
        self._rows[owner] = slab, index

    def trim(self) -> None:
        """Give the memory of unused rows back, those of other caches of the store too."""
        self.store.trim()

    def close(self) -> None:
        """Give everything back, its part of the store's budget too; it holds no context after that.

        Raises:
            ValueError: a row is neither free nor offered; nothing is changed then.
        """
        if len(self._rows) > len(self._offered):
            raise ValueError("a cache in use cannot be closed")
        while self.evict():
            pass
        self.store.num_blocks -= self.num_blocks
        self.num_blocks = 0
        try:
            self.store.trim()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            # What others hold is copied on the way: it is tried again when they need room, inside a step, which can be undone.

    def check_integrity(self) -> None:
        """Raise ``AssertionError`` when rows, owners and the budget do not add up."""
        owned = 0
        for slab in self.store.slabs:
            assert len(slab.owners) <= slab.allocated
            for index, (cache, owner) in enumerate(slab.owners):
                if cache is self:
                    assert self._rows[owner][0] is slab
                    assert self._rows[owner][1] == index
                    owned += 1
        assert len(self._rows) == owned
        assert self._used_blocks == sum(slab.capacity // BLOCK for slab, _ in self._rows.values())
        assert self._offered_blocks == sum(self._rows[owner][0].capacity // BLOCK for owner in self._offered)
        assert 0 <= self.free_blocks <= self.num_blocks
        assert self._used_blocks <= self.num_blocks
        assert self.store.allocated_blocks <= self.store.num_blocks

    def _append(self, owner: Hashable, capacity: int) -> None:
        self._rows[owner] = self.store.append(self, owner, capacity)
        self._used_blocks += capacity // BLOCK

    def _move(self, owner: Hashable, capacity: int) -> None:
        """Copy a row that outgrew its slab. The old row may have to go before there is memory for the new one."""
        slab, index = self._rows[owner]
        kept = slab.data[:, :, index].clone()
        self.free(owner)
        self._append(owner, capacity)
        target, row = self._rows[owner]
        target.data[:, :, row, :, : slab.capacity] = kept
