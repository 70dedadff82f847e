"""Rank 0's side: caches whose every change the others make too, and forwards that the others run with it or for it.

A member is held by all ranks (the base, of which each has its part; a reward that each has whole) or by another rank than 0.
Of the last, rank 0 keeps the books of the cache without its memory. Who runs a chunk is its context's home:

the base                      everyone, together
a member of another rank      that rank
a member that all have whole  one of them, for as long as the context lives; a copy's home is that of its source
"""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from server.engine.cache.context_cache import ContextCache
from server.engine.cache.kv_cache import KVShape
from server.engine.chunk import Chunk
from server.engine.member import Member
from server.engine.memory_fault import is_out_of_memory
from server.engine.runner import PackedModel, RunnerLane
from server.engine.sharding.journal import EVERYONE, Forward, Journal, Op, Part
from server.engine.sharding.ranks import Ranks

FINE, OUT_OF_MEMORY = 0, 1
"""How a rank's part went."""


class GroupBroken(Exception):
    """The ranks cannot go on together: one is gone, or failed where the others wait for it."""


@dataclass(slots=True)
class _Context:
    """``number``: the context's for the others; ``blocks`` reserved for it; ``home``: None until it is first read."""

    number: int
    blocks: int
    home: int | None
    offered: bool = False


class MirroredCache:
    """A cache of which other ranks have one that is changed alike.

    ``homes``: the ranks that may run a context; :data:`EVERYONE` alone where all do together.
    """

    def __init__(self, journal: Journal, number: int, real: ContextCache, homes: Sequence[int]) -> None:
        self._journal = journal
        self._number = number
        self._real = real
        self._homes = tuple(homes)
        self._contexts: dict[Hashable, _Context] = {}
        self._next = 0
        self._tidy_at = 256

    @property
    def shape(self) -> KVShape:
        """What one token costs on a rank that holds it."""
        return self._real.shape

    @property
    def num_blocks(self) -> int:
        """As of the real cache; so are all below."""
        return self._real.num_blocks

    def __contains__(self, owner: Hashable) -> bool:
        return owner in self._real

    @property
    def free_blocks(self) -> int:
        return self._real.free_blocks

    @property
    def offered_blocks(self) -> int:
        return self._real.offered_blocks

    @property
    def allocated_blocks(self) -> int:
        return self._real.allocated_blocks

    def blocks_for(self, length: int) -> int:
        return self._real.blocks_for(length)

    def fits(self, length: int) -> bool:
        return self._real.fits(length)

    def reserve(self, owner: Hashable, length: int) -> bool:
        if owner not in self._real:
            self._contexts.pop(owner, None)  # it was evicted
        blocks, known = self._real.blocks_for(length), self._contexts.get(owner)
        if known is not None and blocks <= known.blocks:
            return True  # nothing changes
        with self._torn_if_it_raises():
            if not self._real.reserve(owner, length):
                return False
        known = self._known(owner)
        known.blocks = max(known.blocks, blocks)
        self._note(Op.RESERVE, known.number, length)
        return True

    def copy(self, source: Hashable, target: Hashable, length: int) -> None:
        with self._torn_if_it_raises():
            self._real.copy(source, target, length)
        giver, taker = self._contexts[source], self._contexts[target]
        taker.home = self.home(source)
        self._note(Op.COPY, giver.number, taker.number, length)

    def offer(self, owner: Hashable) -> None:
        self._real.offer(owner)
        self._contexts[owner].offered = True
        self._note(Op.OFFER, self._contexts[owner].number)

    def touch(self, owner: Hashable) -> None:
        self._real.touch(owner)
        self._note(Op.TOUCH, self._contexts[owner].number)

    def evict(self) -> bool:
        with self._torn_if_it_raises():
            evicted = self._real.evict()
        if evicted:
            self._note(Op.EVICT)
        return evicted

    def free(self, owner: Hashable) -> None:
        with self._torn_if_it_raises():
            self._real.free(owner)
        known = self._contexts.pop(owner, None)
        if known is not None:
            self._note(Op.FREE, known.number)

    def trim(self) -> None:
        with self._torn_if_it_raises():
            self._real.trim()
        self._note(Op.TRIM)

    def close(self) -> None:
        self._real.close()
        self._contexts.clear()
        self._note(Op.CLOSE)

    def check_integrity(self) -> None:
        self._real.check_integrity()

    def tear(self) -> None:
        """Let the others forget all contexts: they, or this one, could not do what the other did. Whoever uses this cache has
        run out of memory and frees all of its own contexts before the next forward."""
        self._note(Op.CLEAR)

    def number(self, owner: Hashable) -> int:
        """What the others call a context."""
        return self._contexts[owner].number

    def home(self, owner: Hashable) -> int:
        """Who runs it."""
        known = self._contexts[owner]
        if known.home is None:
            known.home = self._least_busy()
        return known.home

    def _least_busy(self) -> int:
        """The home of fewest contexts that are in use."""
        if len(self._homes) == 1:
            return self._homes[0]
        taken = Counter(one.home for one in self._contexts.values() if not one.offered)
        return min(self._homes, key=lambda rank: taken[rank])

    def _known(self, owner: Hashable) -> _Context:
        known = self._contexts.get(owner)
        if known is None:
            self._tidy()
            known = self._contexts[owner] = _Context(self._next, 0, None)
            self._next += 1
        return known

    def _tidy(self) -> None:
        """Forget those that were evicted; now and then, as nobody says which."""
        if len(self._contexts) >= self._tidy_at:
            self._contexts = {one: known for one, known in self._contexts.items() if one in self._real}
            self._tidy_at = max(256, 2 * len(self._contexts))

    @contextmanager
    def _torn_if_it_raises(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.tear()
            raise

    def _note(self, op: Op, *arguments: int) -> None:
        self._journal.note(op, self._number, *arguments)


@dataclass(frozen=True, slots=True)
class Led:
    """A member that other ranks hold: its ``number`` among all, its cache here, and the member itself if rank 0 holds it too."""

    number: int
    cache: MirroredCache
    local: Member | None


class LedRunner:
    """Runs members of one place: where ``together``, on all ranks at once; else each chunk at its home.

    A :class:`~server.engine.runner.MemberRunner`.
    """

    model: PackedModel | None = None

    def __init__(
        self,
        ranks: Ranks,
        journal: Journal,
        led: Mapping[str, Led],
        lanes: Sequence[RunnerLane],
        *,
        together: bool,
        all_led: list[Led],
    ) -> None:
        """``all_led``: those of every such runner, shared by these; a message tells of what was done to all of them."""
        self.lanes = tuple(lanes)
        self._ranks = ranks
        self._journal = journal
        self._led = dict(led)
        self._together = together
        self._all = all_led

    def forward(
        self, chunks: Mapping[str, Sequence[Chunk]], drawn: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """As :meth:`server.engine.runner.Runner.forward`.

        Raises:
            torch.OutOfMemoryError: a rank has no memory for its part; it, and the others, go on when all contexts are freed.
            GroupBroken: the ranks cannot go on.
        """
        lanes = [lane for lane in self.lanes if lane.name in chunks]
        homes = {lane.name: self._homes(lane.name, chunks[lane.name]) for lane in lanes}
        drawn = self._announce(lanes, chunks, homes, drawn)
        own = {
            name: [chunk for chunk, home in zip(chunks[name], at, strict=True) if home in (0, EVERYONE)]
            for name, at in homes.items()
        }
        own = {name: kept for name, kept in own.items() if kept}
        if self._together:
            return self._run_together(own, drawn)
        return self._gather(lanes, chunks, homes, own, drawn)

    def vacate(self, name: str) -> None:
        """As :meth:`server.engine.runner.Runner.vacate`, on every rank that holds the member; at once, since it may be long until
        the next forward.

        Raises:
            GroupBroken: the ranks cannot go on.
        """
        led = self._led.pop(name)
        self._all.remove(led)
        self.lanes = tuple(lane for lane in self.lanes if lane.name != name)
        if led.local is not None:
            led.local.runner.vacate(name)
        self._journal.note(Op.VACATE, led.number)
        self._tell(Forward(0, ()), None)  # who is short of memory says so again with the next forward

    def _homes(self, name: str, chunks: Sequence[Chunk]) -> list[int]:
        cache = self._led[name].cache
        return [cache.home(chunk.owner) for chunk in chunks]

    def _announce(
        self,
        lanes: Sequence[RunnerLane],
        chunks: Mapping[str, Sequence[Chunk]],
        homes: Mapping[str, Sequence[int]],
        drawn: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Let the others do what was done and begin; the tokens of the step before, where the others need them too."""
        parts = []
        for lane in lanes:
            led = self._led[lane.name]
            numbered = [replace(chunk, owner=led.cache.number(chunk.owner)) for chunk in chunks[lane.name]]
            placed = tuple(zip(homes[lane.name], numbered, strict=True))
            parts.append(Part(led.number, led.cache.free_blocks, placed))
        rows = 0 if drawn is None else len(drawn)
        worst, drawn = self._tell(Forward(rows, tuple(parts)), drawn)
        if worst != FINE:
            for led in self._all:
                led.cache.tear()
            raise torch.OutOfMemoryError("another rank ran out of memory for its caches")
        return drawn

    def _tell(self, forward: Forward, drawn: torch.Tensor | None) -> tuple[int, torch.Tensor | None]:
        """Say what was done and is to be run, with the tokens of the step before if there are any; how the others fared with the
        first, and these tokens where the logits are exchanged."""
        with _others_wait("while the ranks agreed on a forward"):
            self._ranks.tell(self._journal.close_with(forward))
            if drawn is not None and forward.drawn:
                drawn = self._ranks.share_drawn(drawn, forward.drawn)
            return self._ranks.worst(FINE), drawn

    def _run_together(
        self, own: Mapping[str, Sequence[Chunk]], drawn: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        with _others_wait("in a forward of all ranks"):
            return run_local(self._locals, own, drawn)

    def _gather(
        self,
        lanes: Sequence[RunnerLane],
        chunks: Mapping[str, Sequence[Chunk]],
        homes: Mapping[str, Sequence[int]],
        own: Mapping[str, Sequence[Chunk]],
        drawn: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """Logits of all homes, in the order of the chunks."""
        logits: dict[int, dict[str, torch.Tensor]] = {}
        short: list[int] = []
        try:
            logits[0] = run_local(self._locals, own, drawn)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            short.append(0)
        asked = sorted({home for at in homes.values() for home in at} - {0})
        with _others_wait("as it took another's logits"):
            for rank in asked:  # all of them, also where that is in vain: they send
                if self._ranks.status_of(rank) == FINE:
                    logits[rank] = self._received(rank, lanes, chunks, homes)
                else:
                    short.append(rank)
        if short:
            raise torch.OutOfMemoryError(f"rank {', '.join(map(str, short))} ran out of memory")
        return {
            lane.name: _in_order(
                chunks[lane.name],
                homes[lane.name],
                {rank: of_rank[lane.name] for rank, of_rank in logits.items() if lane.name in of_rank},
            )
            for lane in lanes
        }

    def _received(
        self,
        rank: int,
        lanes: Sequence[RunnerLane],
        chunks: Mapping[str, Sequence[Chunk]],
        homes: Mapping[str, Sequence[int]],
    ) -> dict[str, torch.Tensor]:
        """What ``rank`` answers, by member: [its rows, vocab_size]."""
        rows = {
            lane: sum(
                chunk.logits
                for chunk, home in zip(chunks[lane.name], homes[lane.name], strict=True)
                if home == rank
            )
            for lane in lanes
            if rank in homes[lane.name]
        }
        sizes = [count * lane.vocab_size for lane, count in rows.items()]
        told = torch.split(self._ranks.logits_of(rank, sum(sizes)), sizes)
        return {
            lane.name: flat.view(count, lane.vocab_size)
            for (lane, count), flat in zip(rows.items(), told, strict=True)
        }

    @property
    def _locals(self) -> dict[str, Member]:
        return {name: led.local for name, led in self._led.items() if led.local is not None}


@contextmanager
def _others_wait(where: str) -> Iterator[None]:
    """What fails in here ends the group: others wait for this rank in the middle of what they do, so that not even a shortage of
    memory can be undone."""
    try:
        yield
    except Exception as error:
        raise GroupBroken(f"rank 0 failed {where}: {error}") from error


def run_local(
    members: Mapping[str, Member], chunks: Mapping[str, Sequence[Chunk]], drawn: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """Run members of this process, those of one forward together; by member, [Σ chunk.logits, vocab_size] float32."""
    logits: dict[str, torch.Tensor] = {}
    for runner in {id(one.runner): one.runner for name, one in members.items() if name in chunks}.values():
        own = {lane.name: chunks[lane.name] for lane in runner.lanes if lane.name in chunks}
        logits |= runner.forward(own, drawn)
    return logits


def _in_order(
    chunks: Sequence[Chunk], homes: Sequence[int], logits: Mapping[int, torch.Tensor]
) -> torch.Tensor:
    """The rows of all homes as if one had run all chunks."""
    if len(logits) == 1:
        (only,) = logits.values()
        return only
    device = next(iter(logits.values())).device
    counts = {
        rank: [chunk.logits for chunk, home in zip(chunks, homes, strict=True) if home == rank]
        for rank in logits
    }
    pieces = {rank: iter(torch.split(rows.to(device), counts[rank])) for rank, rows in logits.items()}
    return torch.cat([next(pieces[home]) for home in homes])
