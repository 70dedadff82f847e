"""The cache of one member of one replica, in blocks: what answers under way hold, and the prompts kept in what is left.

The rules are those of ``server/engine/cache`` (``KVCache``, ``PrefixCache``) for one tenant. There every kept prompt is looked
at; here an index finds the same one, so that a look-up does not take longer where many are kept.
"""

from collections import OrderedDict, defaultdict
from dataclasses import dataclass

from server.simulation.limits import BLOCK, Limits
from server.simulation.request import Prompt
from server.simulation.slabs import Slabs


@dataclass(slots=True)
class _Kept:
    prompt: Prompt
    whole: int  # tokens, whole chunks of the grid
    blocks: int


class Memory:
    """``live`` blocks are held by answers under way, ``kept_blocks`` by prompts, which go when anything else needs the room.

    Every prompt of one system must have the same ``system_tokens``, and every later prompt of a session begin with its earlier
    ones.

    Args:
        slabs: that the rows lie in; None: they are in pages, and nothing moves.
    """

    def __init__(self, limits: Limits, slabs: Slabs | None = None) -> None:
        self.live = 0
        self._slabs = slabs
        self._moved = 0
        self.kept_blocks = 0
        self._limits = limits
        self._chunk = limits.prefill_chunk
        self._blocks = limits.blocks
        self._budget = limits.kept_blocks
        self._kept: OrderedDict[int, _Kept] = OrderedDict()  # used longest ago first
        self._by_session: dict[int, list[int]] = defaultdict(list)  # used longest ago first, too
        self._by_system: dict[int, OrderedDict[int, None]] = defaultdict(OrderedDict)
        self._bare: dict[int, int] = {}  # by system, what is kept of its prompt alone
        self._next = 0

    @property
    def free(self) -> int:
        """Blocks that no answer holds."""
        return self._blocks - self.live

    @property
    def kept(self) -> int:
        """Prompts kept."""
        return len(self._kept)

    def fits(self, tokens: int) -> bool:
        """Whether a new context of so many tokens would find room."""
        return self._limits.blocks_for(tokens) <= self._blocks - self.live

    def reserve(self, held: int, tokens: int) -> int | None:
        """Blocks that a context which holds ``held`` has when it has room for ``tokens``; None, and nothing changed, where
        there is too little."""
        wanted = self._limits.blocks_for(tokens)
        if wanted <= held:
            return held
        if wanted - held > self._blocks - self.live:
            return None
        self._evict_for(wanted - held)
        self.live += wanted - held
        if held:
            self._free(held)
            self._moved += 2 * held * BLOCK  # set aside, and written to the new row
        self._allocate(wanted)
        return wanted

    def release(self, held: int) -> None:
        """An answer's blocks are free again."""
        self.live -= held
        if held:
            self._free(held)

    def take_moved(self) -> int:
        """Tokens that were written to put rows in order since this was last asked; none in pages, which share blocks."""
        moved, self._moved = self._moved, 0
        return moved if self._slabs is not None else 0

    def find(self, prompt: Prompt) -> int:
        """Tokens of ``prompt``, whole chunks, that need not be read; what they are copied from counts as used.

        At least the last token is left.
        """
        wanted = (prompt.tokens - 1) // self._chunk * self._chunk
        number, length = self._best(prompt, wanted)
        if number is None:
            return 0
        self._touch(number)
        self._moved += length
        return length

    def keep(self, prompt: Prompt) -> None:
        """Keep the whole chunks of a prompt that has just been read, if there is room and they are not kept already."""
        whole = prompt.tokens // self._chunk * self._chunk
        if not whole or not self.fits(whole):
            return
        holder, length = self._best(prompt, whole)
        if holder is not None and length == whole:
            self._touch(holder)
            return
        blocks = self._limits.blocks_for(whole)
        if blocks > self._budget:
            return
        self._drop_contained(prompt, whole)
        while self.kept_blocks + blocks > self._budget:
            self._drop(next(iter(self._kept)))
        self._evict_for(blocks)
        self._add(_Kept(prompt, whole, blocks))
        self._moved += whole

    def _best(self, prompt: Prompt, wanted: int) -> tuple[int | None, int]:
        """Which kept prompt has most of the first ``wanted`` tokens, and how many; of equals the one used longest ago."""
        if not wanted:
            return None, 0
        shared = min(self._system_whole(prompt), wanted)
        best, most = None, shared
        for number in self._by_session.get(prompt.session, ()):
            length = min(self._kept[number].whole, wanted)
            if length > most:
                best, most = number, length
        if best is not None:
            return best, most
        # Whoever has the system's prompt has just as much of it, the session's own among them.
        others = self._by_system.get(prompt.system)
        return (next(iter(others)), shared) if shared and others else (None, 0)

    def _system_whole(self, prompt: Prompt) -> int:
        return min(prompt.system_tokens, prompt.tokens) // self._chunk * self._chunk

    def _drop_contained(self, prompt: Prompt, whole: int) -> None:
        """What ``prompt`` holds too goes: earlier prompts of its session, and one that is the system's alone."""
        own = [one for one in self._by_session.get(prompt.session, ()) if self._kept[one].whole <= whole]
        bare = self._bare.get(prompt.system)
        for number in dict.fromkeys(own if bare is None else (*own, bare)):
            self._drop(number)

    def _evict_for(self, blocks: int) -> None:
        while blocks > self._blocks - self.live - self.kept_blocks:
            self._drop(next(iter(self._kept)))

    def _add(self, kept: _Kept) -> None:
        number, self._next = self._next, self._next + 1
        self._kept[number] = kept
        self._by_session[kept.prompt.session].append(number)
        self._by_system[kept.prompt.system][number] = None
        if kept.whole <= self._system_whole(kept.prompt):
            self._bare[kept.prompt.system] = number
        self.kept_blocks += kept.blocks
        self._allocate(kept.blocks)

    def _drop(self, number: int) -> None:
        kept = self._kept.pop(number)
        self.kept_blocks -= kept.blocks
        self._free(kept.blocks)
        session = self._by_session[kept.prompt.session]
        session.remove(number)
        if not session:
            del self._by_session[kept.prompt.session]
        system = self._by_system[kept.prompt.system]
        del system[number]
        if not system:
            del self._by_system[kept.prompt.system]
        if self._bare.get(kept.prompt.system) == number:
            del self._bare[kept.prompt.system]

    def _allocate(self, blocks: int) -> None:
        if self._slabs is not None:
            self._moved += self._slabs.append(blocks)

    def _free(self, blocks: int) -> None:
        if self._slabs is not None:
            self._slabs.remove(blocks)

    def _touch(self, number: int) -> None:
        prompt = self._kept[number].prompt
        self._kept.move_to_end(number)
        self._by_system[prompt.system].move_to_end(number)
        session = self._by_session[prompt.session]
        session.remove(number)
        session.append(number)
