"""A replica: the engine's scheduler, step by step, without the engine.

The rules are those of ``server/engine/scheduler.py`` for one tenant: contexts in chunks on the grid, decoding first, a budget of
tokens for each member, memory to the oldest, the youngest computed again. ``tests/server/simulation/test_lockstep.py`` runs both
side by side. Not modelled: several choices to one prompt, keys that share a replica, guesses, searches, changes of weights.

Steps in which nothing changes are taken together. From one step to the next a decode step differs only by one token in each
context, and contexts count as long as the rows they lie in; so until an answer ends, outgrows its row, or somebody comes who can
start, every step is the same and takes the same time.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from server.simulation.limits import BLOCK, Limits
from server.simulation.load import Load, MemberLoad
from server.simulation.memory import Memory
from server.simulation.request import Request
from server.simulation.slabs import Slabs


class Answer:
    """One under way.

    ``total``: tokens of its context, ``drawn`` of them its own; ``width``: those of a row that holds them. ``computed`` tokens
    and ``held`` blocks by place in ``request.members``; ``decodes``: each member has only the last token to compute. ``came``,
    ``first``, ``last``: seconds, for whoever keeps the time.
    """

    __slots__ = (
        "cached",
        "came",
        "computed",
        "decodes",
        "drawn",
        "first",
        "held",
        "last",
        "preempted",
        "request",
        "total",
        "width",
    )

    def __init__(self, request: Request, came: float = 0.0) -> None:
        self.request = request
        self.came = came
        self.first = self.last = -1.0
        self.total = request.prompt.tokens
        self.drawn = 0
        self.cached = 0
        self.preempted = 0
        self.computed = [0] * len(request.members)
        self.held = [0] * len(request.members)
        self.width = 0
        self.decodes = False

    def look(self) -> None:
        """Note whether it decodes, now that ``computed`` is another."""
        behind = self.total - 1
        self.decodes = all(computed == behind for computed in self.computed)


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: its load, who draws, and how many more steps are the same if nobody comes who can start."""

    load: Load
    drawing: Sequence[Answer]
    more: int


class Replica:
    """The answers of one replica, and its members' memories.

    Args:
        slabs: by member, the base first, what its rows lie in; None: pages.
    """

    def __init__(self, limits: Limits, slabs: Sequence[Slabs | None]) -> None:
        self.limits = limits
        self.waiting: deque[Answer] = deque()
        self.running: list[Answer] = []
        self.memories = [Memory(limits, own) for own in slabs]
        self.preemptions = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    @property
    def full(self) -> bool:
        """Whether one more request would be refused."""
        return len(self) >= self.limits.max_sequences + self.limits.max_queue

    @property
    def blocked(self) -> bool:
        """Whether one that comes now cannot start before an answer ends or gives way."""
        return bool(self.waiting) or len(self.running) >= self.limits.max_sequences

    @property
    def usage(self) -> float:
        """Share of the fullest member's blocks that answers hold."""
        return max(memory.live for memory in self.memories) / self.limits.blocks

    def add(self, answer: Answer) -> None:
        """Queue an answer.

        Raises:
            ValueError: there is no room for it even alone.
        """
        longest = answer.request.prompt.tokens + answer.request.output
        if longest > self.limits.longest:
            raise ValueError(f"a context of {longest} tokens; there is room for {self.limits.longest}")
        self.waiting.append(answer)

    def plan(self) -> Plan | None:
        """The next step, its memory reserved; None where there is nothing to do."""
        self._reserve_running()
        self._admit()
        if not self.running:
            return None
        decoding: list[Answer] = []
        reading: list[Answer] = []
        for one in self.running:
            (decoding if one.decodes else reading).append(one)
        load = [MemberLoad(moved=memory.take_moved()) for memory in self.memories]
        left = [self.limits.max_step_tokens] * len(self.memories)
        drawing: list[Answer] = []
        for one in decoding:
            self._decode(one, left, load, drawing)
        for one in reading:
            self._read(one, left, load, drawing)
        moved = any(own.moved for own in load)
        steady = not moved and not reading and len(drawing) == len(decoding)
        return Plan(load, drawing, self._more(drawing) if steady else 0)

    def take(self, plan: Plan, steps: int = 1) -> list[Answer]:
        """The planned step was taken, and so many of those that are the same; the answers that ended with it.

        Raises:
            ValueError: more steps than are the same.
        """
        if not 1 <= steps <= plan.more + 1:
            raise ValueError(f"{plan.more + 1} steps are the same, not {steps}")
        for one in plan.drawing:
            if not one.drawn:
                self._keep(one)
        ended = []
        for one in plan.drawing:
            one.drawn += steps
            one.total += steps
            one.decodes = True  # to draw, all of them have read all there was
            if steps > 1:
                one.computed = [one.total - 1] * len(one.computed)
            if one.drawn >= one.request.output:
                ended.append(one)
        for one in ended:
            self.running.remove(one)
            self._release(one)
        return ended

    def _more(self, drawing: Sequence[Answer]) -> int:
        """Until an answer ends or outgrows its row."""
        more = 1 << 60
        for one in drawing:
            if not one.drawn:
                return 0  # its prompt is yet to be kept
            room, left = one.width - one.total, one.request.output - one.drawn - 1
            if room < more:
                more = room
            if left < more:
                more = left
        return more

    def _reserve_running(self) -> None:
        """Room for every running answer's next chunks, oldest first."""
        for one in list(self.running):
            # A row is seldom outgrown.
            if one.total <= min(one.held) * BLOCK:
                continue
            while one in self.running and not self._reserve(one):
                self._preempt(self.running[-1])

    def _reserve(self, one: Answer) -> bool:
        for place, member in enumerate(one.request.members):
            held = self.memories[member].reserve(one.held[place], self._chunk_end(one, place))
            if held is None:
                return False
            one.held[place] = held
        return True

    def _preempt(self, one: Answer) -> None:
        self._release(one)
        one.computed = [0] * len(one.computed)
        one.decodes = False
        self.running.remove(one)
        self.waiting.appendleft(one)
        one.preempted += 1
        self.preemptions += 1

    def _release(self, one: Answer) -> None:
        for place, member in enumerate(one.request.members):
            self.memories[member].release(one.held[place])
            one.held[place] = 0

    def _admit(self) -> None:
        """Start those that wait, in order, while there is room for all they have and one token more."""
        while self.waiting and len(self.running) < self.limits.max_sequences:
            one = self.waiting[0]
            memories = [self.memories[member] for member in one.request.members]
            if not all(memory.fits(one.total + 1) for memory in memories):
                return
            for place, memory in enumerate(memories):
                held = memory.reserve(0, one.total + 1)
                assert held is not None
                one.held[place] = held
            self.waiting.popleft()
            self.running.append(one)
            self._inherit(one)

    def _inherit(self, one: Answer) -> None:
        """Take over what has been kept of its prompt."""
        for place, member in enumerate(one.request.members):
            one.computed[place] = self.memories[member].find(one.request.prompt)
        one.look()
        if not one.preempted:
            one.cached = one.computed[0]
            self.cached_tokens += one.cached
            self.prompt_tokens += one.request.prompt.tokens

    def _keep(self, one: Answer) -> None:
        for member in one.request.members:
            self.memories[member].keep(one.request.prompt)

    def _chunk_end(self, one: Answer, place: int) -> int:
        """Where the next chunk of a context ends: on the grid as far as the prompt goes."""
        size, prompt = self.limits.prefill_chunk, one.request.prompt.tokens
        computed = one.computed[place]
        if computed < prompt:
            return min(prompt, (computed // size + 1) * size)
        return min(one.total, computed + size)

    def _decode(self, one: Answer, left: list[int], load: Load, drawing: list[Answer]) -> None:
        """One token of each member, and a draw."""
        members = one.request.members
        for member in members:
            if not left[member]:
                return
        total = one.total
        if total > one.width:
            one.width = self.limits.blocks_for(total) * BLOCK
        computed, width = one.computed, one.width
        for place, member in enumerate(members):
            left[member] -= 1
            own = load[member]
            own.tokens += 1
            own.draws += 1
            own.attended += width
            computed[place] = total
        drawing.append(one)

    def _read(self, one: Answer, left: list[int], load: Load, drawing: list[Answer]) -> None:
        """The next chunk of each member, as far as the budgets go; whoever could finish earlier waits for the slowest."""
        ends = [self._chunk_end(one, place) for place in range(len(one.computed))]
        draws = all(end == one.total for end in ends)
        chunks = [
            (place, member, ends[place] - one.computed[place])
            for place, member in enumerate(one.request.members)
            if draws or ends[place] < one.total
        ]
        fitting = [chunk for chunk in chunks if chunk[2] <= left[chunk[1]]]
        if draws and len(fitting) < len(chunks):
            return
        for place, member, size in fitting:
            left[member] -= size
            one.computed[place] = ends[place]
            own = load[member]
            own.tokens += size
            own.draws += draws
            width = self.limits.blocks_for(ends[place]) * BLOCK
            if size == 1:
                own.attended += width
            else:
                own.read += size * width
        if draws:
            drawing.append(one)
        else:
            one.look()
