"""A rank other than 0: it changes its caches as rank 0 does and runs its part of every forward."""

import gc
import weakref
from collections.abc import Mapping, Sequence, Set
from typing import NoReturn

import torch

from server.engine.chunk import Chunk
from server.engine.member import Member
from server.engine.memory_fault import is_out_of_memory
from server.engine.sharding.journal import EVERYONE, Forward, Note, Op, read
from server.engine.sharding.leader import FINE, OUT_OF_MEMORY, GroupBroken, run_local
from server.engine.sharding.ranks import Ranks


class Mirror:
    """The cache of a member that this rank holds, changed as rank 0's is.

    ``torn``: it could not be; nothing is done to it until it is cleared.
    """

    def __init__(self, member: Member) -> None:
        self.member = member
        self.torn = False
        self._owners: set[int] = set()
        self._tidy_at = 256

    def obey(self, note: Note) -> None:
        """Do what rank 0 did."""
        if note.op is Op.CLEAR:
            self._clear()
        elif note.op is Op.VACATE:
            self.member.runner.vacate(self.member.name)
        elif note.op is Op.CLOSE:
            if self.torn:
                self._clear()
            self.member.cache.close()
        elif not self.torn:
            self._change(note.op, note.arguments)

    def _change(self, op: Op, arguments: Sequence[int]) -> None:
        cache = self.member.cache
        match op, arguments:
            case Op.RESERVE, (owner, length):
                self._meet(owner)
                if not cache.reserve(owner, length):
                    raise GroupBroken(f"{self.member.name}: there is no room for what rank 0 has room for")
            case Op.COPY, (source, target, length):
                cache.copy(source, target, length)
            case Op.OFFER, (owner,):
                cache.offer(owner)
            case Op.TOUCH, (owner,):
                cache.touch(owner)
            case Op.EVICT, ():
                cache.evict()
            case Op.FREE, (owner,):
                self._owners.discard(owner)
                cache.free(owner)
            case Op.TRIM, ():
                cache.trim()
            case _:
                raise ValueError(f"nothing is known of {op!r} with {len(arguments)} arguments")

    def _meet(self, owner: int) -> None:
        if len(self._owners) >= self._tidy_at:
            # Those that were evicted.
            self._owners = {one for one in self._owners if one in self.member.cache}
            self._tidy_at = max(256, 2 * len(self._owners))
        self._owners.add(owner)

    def _clear(self) -> None:
        for owner in self._owners:
            self.member.cache.free(owner)
        self._owners.clear()
        self.member.cache.trim()
        self.torn = False


class Follower:
    """Does as rank 0 says until the process ends. ``members``: those this rank holds, by their numbers among all."""

    def __init__(self, ranks: Ranks, members: Mapping[int, Member]) -> None:
        self._ranks = ranks
        self._mirrors = {number: Mirror(member) for number, member in members.items()}

    def run(self) -> NoReturn:
        """Waits for messages and carries them out, for ever.

        Raises:
            GroupBroken: the ranks cannot go on together.
        """
        while True:
            self.step()

    @torch.inference_mode()
    def step(self) -> None:
        """Wait for one message and carry it out."""
        notes, forward = read(self._ranks.hear())
        status = self._obey(notes)
        drawn = self._ranks.share_drawn(None, forward.drawn) if forward.drawn else None
        if self._ranks.worst(status) == FINE:
            self._check(forward)
            self._run(forward, drawn)
        self._forget({note.member for note in notes if note.op is Op.VACATE})

    def _forget(self, numbers: Set[int]) -> None:
        """Members that are gone: their weights go too."""
        gone = [self._mirrors.pop(number) for number in numbers & self._mirrors.keys()]
        models = [weakref.ref(mirror.member.loaded.model) for mirror in gone]
        del gone
        if any(model() is not None for model in models):
            gc.collect()  # some hold themselves in cycles

    def _obey(self, notes: Sequence[Note]) -> int:
        """How it went: short of memory is also who was so before, and has not been told to clear its caches yet."""
        for note in notes:
            mirror = self._mirrors.get(note.member)
            if mirror is None:
                continue
            try:
                mirror.obey(note)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                mirror.torn = True
        return OUT_OF_MEMORY if any(mirror.torn for mirror in self._mirrors.values()) else FINE

    def _check(self, forward: Forward) -> None:
        """Caches that were changed alike are alike."""
        for part in forward.parts:
            mirror = self._mirrors.get(part.member)
            if mirror is not None and mirror.member.cache.free_blocks != part.free:
                raise GroupBroken(
                    f"{mirror.member.name}: {mirror.member.cache.free_blocks} blocks of its cache are free on rank "
                    f"{self._ranks.rank}, {part.free} on rank 0"
                )

    def _run(self, forward: Forward, drawn: torch.Tensor | None) -> None:
        together = any(home == EVERYONE for part in forward.parts for home, _ in part.chunks)
        own: dict[str, list[Chunk]] = {}
        for part in forward.parts:
            chunks = [chunk for home, chunk in part.chunks if home in (EVERYONE, self._ranks.rank)]
            if chunks:
                own[self._mirrors[part.member].member.name] = chunks
        if not own:
            return
        members = {mirror.member.name: mirror.member for mirror in self._mirrors.values()}
        if together:
            try:
                run_local(members, own, drawn)
            except Exception as error:
                # Whatever it is: the others wait in the middle of a layer.
                raise GroupBroken(f"failed in a forward of all ranks: {error}") from error
            return
        try:
            logits = run_local(members, own, drawn)
            rows = torch.cat([logits[name].flatten().to(self._ranks.device) for name in own])
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._ranks.answer(OUT_OF_MEMORY, None)
        else:
            self._ranks.answer(FINE, rows)
