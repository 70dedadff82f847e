"""The keys and values one member keeps of every context, in blocks anywhere in one storage: for GPUs.

A context owns a *table* of blocks, in the order of its tokens; a block may stand in several tables::

    storage    [layers, K|V, blocks, BLOCK, kv_heads, head_dim]        allocated once

    ctx A      [ 4, 1, 7 ]      tokens 0-63 in block 4, 64-127 in block 1, …
    ctx B      [ 4, 1, 2 ]      begins with the same 128 tokens
    nobody     block 0: padding of a batch writes there

Members that run in one forward keep their blocks in one :class:`PageStore`, so that attention covers them in one call.

The interface is that of :class:`~server.engine.cache.kv_cache.KVCache`, without its rows: nothing is moved when a context
grows, and a copied prefix shares its whole blocks. They need no copy on write: a context is only ever written behind the tokens
it has computed, and a shared block is full of those.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence

import torch

from server.engine.cache.kv_cache import BLOCK, KVShape

SCRATCH = 0
"""The block of a store that no context owns."""


class PageStore:
    """The blocks of one or several caches, and one for nobody."""

    def __init__(self, shape: KVShape) -> None:
        self.shape = shape
        self._blocks = 1
        self._data: torch.Tensor | None = None

    @property
    def data(self) -> torch.Tensor:
        """[layers, 2, blocks, BLOCK, kv_heads, head_dim] keys and values; allocated when first asked for."""
        if self._data is None:
            shape = self.shape
            size = (shape.layers, 2, self._blocks, BLOCK, shape.kv_heads, shape.head_dim)
            # An ordinary tensor even when it is first asked for in inference mode.
            with torch.inference_mode(False):
                self._data = torch.zeros(size, dtype=shape.dtype, device=shape.device)
        return self._data

    def claim(self, blocks: int) -> range:
        """So many blocks more, for one cache. Raises ``RuntimeError`` once the memory is allocated."""
        if self._data is not None:
            raise RuntimeError("a store in use takes no more caches")
        self._blocks += blocks
        return range(self._blocks - blocks, self._blocks)


class PagedKVCache:
    """Keys and values of every context of one member, in blocks of :data:`BLOCK` tokens.

    Attributes:
        store: where they lie; with other caches where one was given.
        num_blocks: blocks that contexts of this cache may own.

    Raises:
        ValueError: ``max_tokens`` is less than a block.
        RuntimeError: the store is in use already.
    """

    def __init__(self, shape: KVShape, max_tokens: int, store: PageStore | None = None) -> None:
        if max_tokens < BLOCK:
            raise ValueError(f"a cache needs room for at least {BLOCK} tokens, not {max_tokens}")
        self.shape = shape
        self.store = store or PageStore(shape)
        self.num_blocks = max_tokens // BLOCK
        own = self.store.claim(self.num_blocks)
        self._tables: dict[Hashable, list[int]] = {}
        self._owners = dict.fromkeys(own, 0)  # contexts in whose table a block stands
        self._holders = dict.fromkeys(own, 0)  # those of them that are not offered
        self._unowned = list(own)[::-1]
        self._offered: OrderedDict[Hashable, None] = OrderedDict()  # used longest ago first
        self._offered_blocks = 0

    def __contains__(self, owner: Hashable) -> bool:
        return owner in self._tables

    @property
    def free_blocks(self) -> int:
        """Blocks that no context owns, and those that only offered ones own."""
        return len(self._unowned) + self._offered_blocks

    @property
    def offered_blocks(self) -> int:
        """Blocks that only offered contexts own."""
        return self._offered_blocks

    @property
    def allocated_blocks(self) -> int:
        """Blocks for which memory is held: all of them, from the start."""
        return self.num_blocks

    def blocks_for(self, length: int) -> int:
        """Blocks of a context of ``length`` tokens. Raises ``ValueError`` when that is below 1."""
        if length < 1:
            raise ValueError(f"a context holds at least one token, not {length}")
        return -(-length // BLOCK)

    def fits(self, length: int) -> bool:
        """Whether a new context of ``length`` tokens would find room now, were it to share nothing."""
        return self.blocks_for(length) <= self.free_blocks

    def table(self, owner: Hashable) -> Sequence[int]:
        """``owner``'s blocks in the order of its tokens; valid until it is next changed. Raises ``KeyError`` when it has none."""
        return self._tables[owner]

    def reserve(self, owner: Hashable, length: int) -> bool:
        """Make sure ``owner``, which is not offered, has room for ``length`` tokens; what it already holds stays where it is.

        Offered contexts go where there is no other room. Returns False, with nothing changed, when there is not enough.
        """
        more = self.blocks_for(length) - len(self._tables.get(owner, ()))
        if more > self.free_blocks:
            return False
        while more > len(self._unowned):
            self.evict()
        table = self._tables.setdefault(owner, [])
        for _ in range(more):
            table.append(self._unowned.pop())
            self._hold(table[-1])
        return True

    def copy(self, source: Hashable, target: Hashable, length: int) -> None:
        """Give ``target``, which has room for them and is not offered, the first ``length`` tokens of ``source``.

        Whole blocks are shared, and ``target``'s own in their place given back; only the tokens behind them are copied.
        """
        giver, taker = self._tables[source], self._tables[target]
        whole, rest = divmod(length, BLOCK)
        for place in range(whole):
            self._hold(giver[place])
            self._drop(taker[place], held=True)
            taker[place] = giver[place]
        if rest:
            data = self.store.data
            data[:, :, taker[whole], :rest] = data[:, :, giver[whole], :rest]

    def offer(self, owner: Hashable) -> None:
        """``owner``'s blocks may be taken when there is need. Raises ``KeyError`` when it has none."""
        for block in self._tables[owner]:
            self._holders[block] -= 1
            self._offered_blocks += not self._holders[block]
        self._offered[owner] = None

    def touch(self, owner: Hashable) -> None:
        """An offered context was of use: others go first. Raises ``KeyError`` when it is not offered."""
        self._offered.move_to_end(owner)

    def evict(self) -> bool:
        """Free the offered context that was used longest ago; False when there is none. Blocks that others own too stay."""
        if not self._offered:
            return False
        self.free(next(iter(self._offered)))
        return True

    def free(self, owner: Hashable) -> None:
        """Give ``owner``'s blocks back; an owner without any is left as it is."""
        held = owner not in self._offered
        self._offered.pop(owner, None)
        for block in self._tables.pop(owner, ()):
            self._drop(block, held=held)

    def trim(self) -> None:
        """Nothing: the store is allocated once."""

    def close(self) -> None:
        """Free every context. The blocks stay with the store, which is allocated once.

        Raises:
            ValueError: a context is not offered; nothing is changed then.
        """
        if len(self._tables) > len(self._offered):
            raise ValueError("a cache in use cannot be closed")
        while self.evict():
            pass

    def check_integrity(self) -> None:
        """Raise ``AssertionError`` when tables, blocks and counts do not add up."""
        owners, holders = dict.fromkeys(self._owners, 0), dict.fromkeys(self._owners, 0)
        for owner, table in self._tables.items():
            assert len(set(table)) == len(table)
            for block in table:
                owners[block] += 1
                holders[block] += owner not in self._offered
        assert owners == self._owners
        assert holders == self._holders
        assert sorted(self._unowned) == [block for block, count in owners.items() if not count]
        only_offered = sum(bool(count) and not holders[block] for block, count in owners.items())
        assert self._offered_blocks == only_offered
        assert set(self._offered) <= set(self._tables)
        assert 0 <= self.free_blocks <= self.num_blocks

    def _hold(self, block: int) -> None:
        """One more context, not an offered one, has ``block`` in its table."""
        if self._owners[block] and not self._holders[block]:
            self._offered_blocks -= 1
        self._owners[block] += 1
        self._holders[block] += 1

    def _drop(self, block: int, *, held: bool) -> None:
        """One context less has ``block`` in its table; ``held``: it was not offered."""
        was_offered = not self._holders[block]
        self._owners[block] -= 1
        self._holders[block] -= held
        if not self._owners[block]:
            self._unowned.append(block)
        is_offered = bool(self._owners[block]) and not self._holders[block]
        self._offered_blocks += is_offered - was_offered
