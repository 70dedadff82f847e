"""Who runs this step, and on which chunks.

Every context's computed tokens chase its total. A sequence draws a token in a step in which ALL its active members reach
their totals; a member that could finish earlier holds its last chunk back until the slowest has only its last chunk left.
Memory goes to the oldest first: when it runs out, the youngest gives everything back and is computed again later.

Where sequences of several owners are under way, places, memory and each step's tokens are shared among these (``fairness.py``).
Within an owner, and where there is only one, the order is that of arrival.

Sequences of one group read the same prompts. The first of them reads; the others are held until it draws its first token,
and join it there. One that comes too late for that (there was no room) copies what a running one has, as far as the grid goes.
So does every sequence whose prompt begins as an earlier one did, from what was kept of that; and one that names a parent copies
what that has, response and all.

A step that runs out of memory all the same is undone by putting off everybody: they are computed again, fewer side by side.
"""

from collections import Counter, deque
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field

from server.engine.cache.context_cache import ContextCache
from server.engine.cache.kv_cache import BLOCK
from server.engine.cache.prefix_cache import PrefixCache
from server.engine.chunk import Chunk
from server.engine.config import EngineConfig
from server.engine.fairness import PROMPT_COST, RESPONSE_COST, Load, Shortage, VirtualTokens, give_way
from server.engine.held import Held
from server.engine.places import Places
from server.engine.sequence import Context, Sequence


@dataclass(slots=True)
class Step:
    """What one step computes: chunks per member, and the sequences that draw a token, in batch-row order.

    ``read``: the sequences of which nothing is drawn that are read to their end.
    ``forks``: follower → leader. A follower's chunks are its leader's: it gets a copy of their cache and draws from the
    same logits.
    """

    chunks: dict[str, list[Chunk]] = field(default_factory=dict)
    drawing: list[Sequence] = field(default_factory=list)
    read: list[Sequence] = field(default_factory=list)
    forks: dict[str, Sequence] = field(default_factory=dict)


class Scheduler:
    """Owns the sequences under way and decides about every cache's rows.

    Args:
        caches: by member, the base's first.
        scorers: members that have no logits to draw from.
    """

    def __init__(
        self, caches: Mapping[str, ContextCache], config: EngineConfig, scorers: Collection[str] = ()
    ) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.places = Places(config.max_sequences)
        self.preemptions = 0
        self.prompt_tokens_computed = 0
        self.prefix_queries = 0
        self.prefix_hits = 0
        self._config = config
        self._caches = dict(caches)
        self._prefixes = {name: self._prefix_cache(cache) for name, cache in caches.items()}
        self._base = next(iter(caches))
        self._scorers = frozenset(scorers)
        self._sequences: dict[str, Sequence] = {}
        self._held = Held(self._caches)
        self._given = VirtualTokens()

    def __len__(self) -> int:
        return len(self._sequences)

    def __contains__(self, sequence_id: str) -> bool:
        return sequence_id in self._sequences

    def is_taken(self, sequence_id: str) -> bool:
        """Whether a sequence under way or a held one has this id."""
        return sequence_id in self._sequences or sequence_id in self._held

    def get(self, sequence_id: str) -> Sequence:
        """The sequence under way with this id. Raises ``KeyError``."""
        return self._sequences[sequence_id]

    def holds(self, sequence: Sequence) -> bool:
        """Whether this very sequence is under way."""
        return self._sequences.get(sequence.id) is sequence

    def all(self) -> list[Sequence]:
        """Every sequence under way, running or waiting."""
        return list(self._sequences.values())

    def add_member(self, name: str, cache: ContextCache, *, scorer: bool = False) -> None:
        """Sequences may read with one member more."""
        self._caches[name] = cache
        self._prefixes[name] = self._prefix_cache(cache)
        self._scorers |= {name} if scorer else set()

    def remove_member(self, name: str) -> None:
        """A member is gone, which no sequence reads with (see :meth:`reads`)."""
        del self._caches[name], self._prefixes[name]
        self._scorers -= {name}

    def reads(self, member: str) -> bool:
        """Whether a sequence that is running, waiting or held has a prompt for ``member``, weighted or not."""
        under_way = any(member in sequence.contexts for sequence in self._sequences.values())
        return under_way or self._held.reads(member)

    def _prefix_cache(self, cache: ContextCache) -> PrefixCache:
        return PrefixCache(
            cache, self._config.prefill_chunk, int(cache.num_blocks * self._config.prefix_share)
        )

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self._sequences[sequence.id] = sequence
        self._given.come(sequence.owner)
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and give back all it holds."""
        self._leave(sequence)
        self._release(sequence)

    def finish(self, sequence: Sequence) -> None:
        """A sequence has come to its end: forget it, or hold it where that is asked for."""
        if not sequence.hold:
            self.remove(sequence)
            return
        self._leave(sequence)
        self._held.add(sequence)

    def let_go(self, sequence_id: str) -> None:
        """Give back what a held sequence holds; one under way will not be held; an unknown one is left as it is."""
        self._held.release(sequence_id)
        if sequence_id in self._sequences:
            self._sequences[sequence_id].hold = False

    def _leave(self, sequence: Sequence) -> None:
        del self._sequences[sequence.id]
        self._given.leave(sequence.owner)
        sequence.group.remove(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)

    def release(self, sequence: Sequence, member: str) -> None:
        """Give back what one member holds of a sequence; it will read from the start if it is weighted in again."""
        self._drop(sequence, member)
        sequence.contexts[member].charged = 0  # what it reads then is read at its owner's wish

    def _drop(self, sequence: Sequence, member: str) -> None:
        self._caches[member].free(sequence.id)
        sequence.contexts[member].computed = 0
        sequence.marks.pop(member, None)

    def keep_prefix(self, sequence: Sequence, members: Collection[str]) -> None:
        """Keep the prompts, which a sequence has just read, for others: those of ``members``."""
        for member in sequence.active:
            if member not in members:
                continue
            prompt = sequence.contexts[member].prompt
            self._prefixes[member].keep(_salt(sequence, member), prompt, sequence.id, sequence.owner)

    def retreat(self) -> Sequence | None:
        """A step ran out of memory: whatever it has half done is undone, and all that is held for anybody is given back.

        Everybody under way waits, in the same order, and has nothing computed; kept prompts and what held sequences hold are
        gone, and fewer are to run side by side. Answers the sequence for which there is too little memory even alone, if that
        is what this shows; it waits as the others do.
        """
        alone, running = self._alone(), len(self.running)
        for sequence in self.running[::-1]:
            self._preempt(sequence)
        for sequence in self.waiting:
            self._release(sequence)  # one that was about to start has room already
        for cache in self._caches.values():
            while cache.evict():
                pass
        # Not earlier: to trim what holds nothing takes no memory, and some caches share theirs.
        for cache in self._caches.values():
            cache.trim()
        hopeless = self.places.ran_out(running, None if alone is None else alone.id)
        return alone if hopeless else None

    def schedule(self) -> Step:
        """Plan the next step; every planned chunk has its room reserved."""
        self._reserve_running()
        self._admit()
        step = Step()
        left = dict.fromkeys(self._caches, self._config.max_step_tokens)
        for sequence in self._in_turn([one for one in self.running if not one.full]):
            self._plan(sequence, left, step)
        return step

    def _in_turn(self, going_on: list[Sequence]) -> list[Sequence]:
        """Those that need one token only go first, so that long prompts never keep them from drawing; then whose owner was given
        least. Where that is less than all others were given, its first prompt goes before everything, so that neither do tokens
        that others draw keep it from being read."""
        ordered = sorted(going_on, key=lambda one: not self._is_decoding(one))
        given = {one.owner: self._given[one.owner] for one in going_on}
        if len(given) < 2:
            return ordered
        decoding = [one for one in ordered if self._is_decoding(one)]
        reading = sorted(ordered[len(decoding) :], key=lambda one: given[one.owner])
        if reading and all(
            given[reading[0].owner] < other for owner, other in given.items() if owner != reading[0].owner
        ):
            return [reading[0], *decoding, *reading[1:]]
        return decoding + reading

    def spare(self, sequence: Sequence) -> int:
        """Tokens that may be guessed behind a sequence's last: what it has room for as it is, and fewer than are still to be
        drawn."""
        room = [self._room(member, sequence.total(member)) for member in sequence.active]
        return min(*room, sequence.request.sampling.max_tokens - len(sequence.response) - 1)

    def _room(self, member: str, total: int) -> int:
        """Tokens that a context of ``total`` tokens can still grow without a block more."""
        return self._caches[member].blocks_for(total) * BLOCK - total

    def _is_decoding(self, sequence: Sequence) -> bool:
        return all(sequence.pending(member) == 1 for member in sequence.active)

    def _reserve_running(self) -> None:
        """Room for every running sequence's next chunks, oldest first."""
        for sequence in list(self.running):
            while sequence in self.running and not sequence.full and not self._reserve(sequence):
                self._preempt(self._youngest())

    def _youngest(self) -> Sequence:
        """The youngest running sequence of an owner that has most of them."""
        started = self._started()
        most = max(started.values())
        return next(one for one in reversed(self.running) if started[one.owner] == most)

    def _started(self) -> Counter[str]:
        """Running sequences by owner."""
        return Counter(one.owner for one in self.running)

    def _reserve(self, sequence: Sequence) -> bool:
        return all(
            self._caches[member].reserve(sequence.id, self._chunk_end(sequence, member))
            for member in sequence.active
        )

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        self.running.remove(sequence)
        self.waiting.appendleft(sequence)
        if sequence.reading:
            sequence.prompt_logprobs = []  # the old list may be that of its group
        sequence.preemptions += 1
        self.preemptions += 1

    def _alone(self) -> Sequence | None:
        """Who runs, or was about to start, where there is one place only."""
        if self.places.now > 1:
            return None
        starting = (one for one in self.waiting if not (self._joins_later(one) or one.full))
        return next(iter(self.running), None) or next(starting, None)

    def _release(self, sequence: Sequence) -> None:
        for member in sequence.contexts:
            self._drop(sequence, member)

    def _admit(self) -> None:
        """Start waiting sequences, each owner's in order, while there is room for all they have so far and one token more."""
        lanes: dict[str, deque[Sequence]] = {}
        while self._places_left or self._given.owners > 1:
            lanes = lanes or self._lanes()
            ready = [owner for owner, lane in lanes.items() if self._is_ready(lane)]
            if not ready:
                return
            started = self._started()
            owner = self._given.next(ready, started)
            if self._admit_one(lanes[owner][0], started[owner]):
                lanes[owner].popleft()
            elif started[owner]:
                lanes[owner].clear()  # it has something: others need not wait for it
            else:
                return

    def _lanes(self) -> dict[str, deque[Sequence]]:
        """What waits, by owner."""
        lanes: dict[str, deque[Sequence]] = {}
        for sequence in self.waiting:
            lanes.setdefault(sequence.owner, deque()).append(sequence)
        return lanes

    @property
    def _places_left(self) -> int:
        return max(0, self.places.now - len(self.running))

    def _is_ready(self, lane: deque[Sequence]) -> bool:
        """Whether any sequence of a lane may start now; those before it leave the lane."""
        while lane and (self._joins_later(lane[0]) or lane[0].full):
            lane.popleft()
        return bool(lane)

    def _admit_one(self, sequence: Sequence, started: int) -> bool:
        """Start a sequence, whose owner has ``started`` so many, if there is room or others have to make some."""
        self._touch_parent(sequence)
        more = 0 if sequence.only_reads or not sequence.request.sampling.max_tokens else 1
        needs = {member: sequence.total(member) + more for member in sequence.active}
        if not self._has_room(needs):
            entitled = self._places_left or started < self._given.share(self.places.now)
            if self._given.owners < 2 or not entitled:
                return False
            self._make_room(sequence.owner, needs)
            if not self._has_room(needs):
                return False
        for member, length in needs.items():
            self._caches[member].reserve(sequence.id, length)
        self._start(sequence)
        self._inherit(sequence)
        return True

    def _has_room(self, needs: Mapping[str, int]) -> bool:
        """Whether there is a place, and memory for so many tokens of each member."""
        return self._places_left > 0 and all(
            self._caches[name].fits(length) for name, length in needs.items()
        )

    def _make_room(self, owner: str, needs: Mapping[str, int]) -> None:
        """Put off sequences of others that have more than their share, if that makes room within the owner's own."""
        caches = {name: self._caches[name] for name in needs}
        totals = (self.places.now, *(cache.num_blocks for cache in caches.values()))
        shortage = Shortage(
            owner,
            needs=(1, *(cache.blocks_for(needs[name]) for name, cache in caches.items())),
            free=(self._places_left, *(cache.free_blocks for cache in caches.values())),
            shares=tuple(self._given.share(total) for total in totals),
        )
        loads = [Load(one.owner, (1, *(self._blocks(one, name) for name in needs))) for one in self.running]
        for sequence in [self.running[place] for place in give_way(shortage, loads)]:
            self._preempt(sequence)

    def _blocks(self, sequence: Sequence, member: str) -> int:
        """Blocks that a running sequence has of a member's cache."""
        cache = self._caches[member]
        return cache.blocks_for(sequence.total(member)) if sequence.id in cache else 0

    def _start(self, sequence: Sequence) -> None:
        self.waiting.remove(sequence)
        self.running.append(sequence)

    def _joins_later(self, sequence: Sequence) -> bool:
        """Whether another of its group, before it, is to read the prompt for it too."""
        first = next((one for one in sequence.group if one.fresh), sequence)
        return sequence.fresh and first is not sequence

    def _inherit(self, sequence: Sequence) -> None:
        """Copy what has been read before: of the prompt, in whole chunks of the grid; or all that a parent has read alike. At
        least the last token is always computed, for its logits."""
        if sequence.reading:
            return
        parent = self._parent(sequence)
        for member in sequence.active:
            owner, length = self._read_before(sequence, member) or (None, 0)
            if parent is not None and parent.id in self._caches[member]:
                common = self._shared_with(parent, sequence, member)
                if common > length:
                    owner, length = parent.id, common
                    if self._tells(sequence, member):
                        sequence.take_marks(parent, member, length)
            if length:
                self._caches[member].copy(owner, sequence.id, length)
                sequence.contexts[member].computed = length
        self._count(sequence)

    def _tells(self, sequence: Sequence, member: str) -> bool:
        """Whether log-probs of what has begun are asked of a member."""
        return sequence.only_reads and member not in self._scorers

    def _parent(self, sequence: Sequence) -> Sequence | None:
        """The parent it names, under way or held, if it may copy from that."""
        name = sequence.request.parent
        if name is None:
            return None
        parent = self._sequences.get(name) or self._held.get(name)
        return parent if parent is not None and parent.request.salt == sequence.request.salt else None

    def _touch_parent(self, sequence: Sequence) -> None:
        """Making room for a sequence must not take that of its parent before all else."""
        parent = self._parent(sequence)
        if parent is not None:
            self._held.touch(parent.id)

    def _shared_with(self, parent: Sequence, sequence: Sequence, member: str) -> int:
        """Tokens of one member's context that may be copied from ``parent``.

        With ``deterministic`` a copy must have the bits that computing it has: a prompt's tokens are computed on the grid, and
        what one calls a prompt the other must not call a response.
        """
        length = sequence.shares(parent, member, told=self._tells(sequence, member))
        if not self._config.deterministic:
            return length
        own, other = sequence.contexts[member].prompt, parent.contexts[member].prompt
        if list(own) == list(other) and length >= len(own):
            return length
        size = self._config.prefill_chunk
        return min(length, len(own), len(other)) // size * size

    def _read_before(self, sequence: Sequence, member: str) -> tuple[Hashable, int] | None:
        """Whose row holds most of a sequence's prompt: a running one's of its group, or a kept one; and how many tokens."""
        size, prompt = self._config.prefill_chunk, sequence.contexts[member].prompt
        whole = (len(prompt) - 1) // size * size
        for other in sequence.group:
            if not sequence.reads_alike(other, member):
                continue
            if other in self.running and 0 < whole <= other.contexts[member].computed:
                return other.id, whole
        return self._prefixes[member].find(_salt(sequence, member), prompt)

    def _count(self, sequence: Sequence) -> None:
        """What the base need not read, once for each prompt: not again after preemption, nor for those that share it."""
        if sequence.preemptions or sequence.group[0] is not sequence:
            return
        base = sequence.contexts.get(self._base)
        if base is None or self._base not in sequence.active:
            return
        sequence.cached_tokens = min(base.computed, len(base.prompt))
        self.prefix_queries += len(base.prompt)
        self.prefix_hits += sequence.cached_tokens

    def _fork(self, leader: Sequence, step: Step) -> None:
        """Let the rest of the group, as far as there is room, draw beside ``leader``, which has just read the prompt."""
        for follower in [one for one in leader.group if one is not leader and one.fresh]:
            if follower in self.running or len(self.running) >= self.places.now:
                continue
            if not set(follower.active) <= set(leader.active):
                continue
            if not all(follower.reads_alike(leader, member) for member in follower.active):
                continue
            lengths = {member: follower.total(member) for member in follower.active}
            if not all(self._caches[member].fits(length) for member, length in lengths.items()):
                continue
            for member, length in lengths.items():
                self._caches[member].reserve(follower.id, length)
                follower.contexts[member].computed = length
            self._start(follower)
            follower.leave_queue()
            step.forks[follower.id] = leader
            step.drawing.append(follower)

    def _chunk_end(self, sequence: Sequence, member: str) -> int:
        """Where the next chunk of a context ends. Prompts are cut on a fixed grid, the same whoever else is in the batch."""
        size = self._config.prefill_chunk
        computed, prompt = sequence.contexts[member].computed, len(sequence.contexts[member].prompt)
        if computed < prompt:
            return min(prompt, (computed // size + 1) * size)
        return min(sequence.total(member), computed + size)

    def _plan(self, sequence: Sequence, left: dict[str, int], step: Step) -> None:
        """Add a sequence's next chunks to the step, as far as the token budgets allow."""
        ends = {member: self._chunk_end(sequence, member) for member in sequence.active}
        draws = all(end == sequence.total(member) for member, end in ends.items())
        sizes = {
            member: end - sequence.contexts[member].computed
            for member, end in ends.items()
            if draws or end < sequence.total(member)
        }
        fitting = {member: size for member, size in sizes.items() if size <= left[member]}
        if (draws or sequence.reading) and len(fitting) < len(sizes):
            return
        for member, size in fitting.items():
            left[member] -= size
            step.chunks.setdefault(member, []).append(self._take(sequence, member, ends[member], draws))
        if draws and sequence.candidates is not None:
            self._given.charge(sequence.owner, sequence.candidates.k * len(sequence.scorers) * RESPONSE_COST)
        if draws and sequence.only_reads:
            step.read.append(sequence)
        elif draws:
            step.drawing.append(sequence)
            if sequence.fresh:
                self._fork(sequence, step)

    def _take(self, sequence: Sequence, member: str, end: int, draws: bool) -> Chunk:
        sequence.leave_queue()
        context = sequence.contexts[member]
        start, context.computed = context.computed, end
        tokens = sequence.tokens(member, start, end)
        is_prompt = start < len(context.prompt)
        if is_prompt and member == self._base:
            self.prompt_tokens_computed += len(tokens)
        self._charge(sequence.owner, context, start, PROMPT_COST if is_prompt else RESPONSE_COST)
        if member in self._scorers:
            # One value of a text; those of candidates are asked for when these are known.
            logits = int(draws and sequence.only_reads)
        elif sequence.only_reads:
            # Behind the prompt's last token and all that follow.
            logits = max(0, end - max(start, len(context.prompt) - 1))
        else:
            logits = len(tokens) if sequence.reading else int(draws)
        condition = sequence.conditions.get(member, ())
        return Chunk(sequence.id, tokens, start, is_prompt, logits, condition=condition)

    def _charge(self, owner: str, context: Context, start: int, cost: int) -> None:
        """Count what has just been planned of a context, from ``start`` on, unless it was before."""
        self._given.charge(owner, cost * max(0, context.computed - max(start, context.charged)))
        context.charged = max(context.charged, context.computed)


def _salt(sequence: Sequence, member: str) -> Hashable:
    """Prompts that begin alike are shared among those with the same one."""
    return sequence.request.salt, sequence.conditions.get(member)
