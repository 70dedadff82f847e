"""The event loop: users come, a router sends them to a replica, replicas take steps, users read, think and come again."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from server.simulation.cost import StepCost
from server.simulation.gaps import Gaps
from server.simulation.host import Host
from server.simulation.limits import Limits
from server.simulation.outcome import Counts, Outcome, Records, Window
from server.simulation.replica import Answer, Plan, Replica
from server.simulation.routing import Router
from server.simulation.slabs import slabs_of
from server.simulation.traffic import Traffic

_COMES, _ENTERS, _STEPPED = range(3)

Event = tuple[float, int, int, int, int]
"""When; a number that breaks ties; what; and of what: session and turn, or replica and version of its plan."""


@dataclass(slots=True)
class _Site:
    """A replica and the step it is taking: ``steps`` alike from ``started`` on, each of ``seconds``; no plan while it is idle.
    ``version`` tells the event that ends them from one that was to end them before they were cut short."""

    replica: Replica
    plan: Plan | None = None
    started: float = 0.0
    seconds: float = 0.0
    steps: int = 0
    version: int = 0


@dataclass(slots=True)
class Deployment:
    """Replicas that are all alike.

    Attributes:
        stores: by member of each, the base first, a number that is the same for members whose rows lie in the same slabs.
        cost: of a step of one that is alone on its machine.
    """

    replicas: int
    stores: Sequence[int]
    limits: Limits
    cost: StepCost
    host: Host = field(default_factory=Host)

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise ValueError(f"replicas must be at least 1, not {self.replicas}")
        if len(self.stores) != len(self.cost.classes):
            raise ValueError(f"{len(self.stores)} members, but costs of {len(self.cost.classes)}")


class Cluster:
    """One simulation; it runs once.

    Args:
        traffic: who comes.
        router: sends them somewhere.
        window: what is counted; all of it unless told.
        together: take steps that are alike together; one by one is slower and comes to the same.
        tick: called for each request that has ended.
    """

    def __init__(
        self,
        deployment: Deployment,
        traffic: Traffic,
        router: Router,
        *,
        window: Window | None = None,
        together: bool = True,
        tick: Callable[[], object] | None = None,
    ) -> None:
        self._deployment = deployment
        self._traffic = traffic
        self._router = router
        self._window = window or Window()
        # Where a step's time depends on the neighbours', it may change with every step of theirs.
        self._together = together and not deployment.host.shared
        self._tick = tick
        limits = deployment.limits
        self._capacity = limits.max_sequences + limits.max_queue
        self._sites = [
            _Site(Replica(limits, slabs_of(limits, deployment.stores))) for _ in range(deployment.replicas)
        ]
        self._loads = [0] * deployment.replicas
        self._busy = [0] * -(-deployment.replicas // deployment.host.replicas)
        self._arriving: dict[tuple[int, int], int] = {}
        self._events: list[Event] = []
        self._order = 0
        self._under_way = 0
        self._begun = 0
        self._now = 0.0
        self._records = Records(len(traffic))
        self._counts = Counts()
        self._gaps = Gaps()

    def run(self) -> Outcome:
        """Until the last request has ended.

        Raises:
            ValueError: a request has no room in a replica even alone.
        """
        for session in range(self._traffic.at_once or 1):
            self._begin_session(session)
        handlers = {_COMES: self._come, _ENTERS: self._enter, _STEPPED: self._stepped}
        while self._events:
            now, _, kind, first, second = heappop(self._events)
            if kind == _STEPPED and self._sites[first].version != second:
                continue
            self._counts.area += self._under_way * (now - self._now)
            self._now = now
            handlers[kind](first, second)
        counts = self._counts
        for site in self._sites:
            counts.preemptions += site.replica.preemptions
            counts.prompt_tokens += site.replica.prompt_tokens
            counts.cached_tokens += site.replica.cached_tokens
        return Outcome(
            self._deployment.replicas, self._now, self._window, self._records, self._counts, self._gaps
        )

    def _push(self, when: float, kind: int, first: int, second: int) -> None:
        self._order += 1
        heappush(self._events, (when, self._order, kind, first, second))

    def _begin_session(self, session: int) -> None:
        """Sessions begin in their order: each at its time, or when an earlier one is over."""
        if session < self._traffic.sessions:
            self._begun = max(self._begun, session + 1)
            starts = self._traffic.starts[session] if self._traffic.at_once is None else self._now
            self._push(starts, _COMES, session, 0)

    def _session_over(self) -> None:
        if self._traffic.at_once is not None:
            self._begin_session(self._begun)

    def _come(self, session: int, turn: int) -> None:
        """A request comes, and with a session's first the next session is on its way."""
        if not turn and self._traffic.at_once is None:
            self._begin_session(session + 1)
        request = self._traffic.request(session, turn)
        records = self._records
        records.arrived[request.number] = self._now
        number = self._router.choose(request, self._loads)
        records.replica[request.number] = number
        if self._loads[number] >= self._capacity:
            records.refused[request.number] = True
            self._end_one()
            self._session_over()
            return
        self._loads[number] += 1
        self._under_way += 1
        delay = self._deployment.host.arrival_seconds
        self._arriving[session, turn] = number
        if delay:
            self._push(self._now + delay, _ENTERS, session, turn)
        else:
            self._enter(session, turn)

    def _enter(self, session: int, turn: int) -> None:
        """A request reaches the engine, which looks at it when the step under way is over."""
        number = self._arriving.pop((session, turn))
        site = self._sites[number]
        blocked = site.replica.blocked
        request = self._traffic.request(session, turn)
        site.replica.add(Answer(request, float(self._records.arrived[request.number])))
        if site.plan is None:
            self._start(number)
        elif not blocked and site.steps > 1:
            self._cut(number)

    def _cut(self, number: int) -> None:
        """Somebody waits who may start: only the step under way is still as it was planned."""
        site = self._sites[number]
        # The smallest number of steps that end no earlier than now.
        steps = max(1, math.ceil((self._now - site.started) / site.seconds - 1e-9))
        if steps < site.steps:
            site.steps = steps
            self._await(number)

    def _await(self, number: int) -> None:
        site = self._sites[number]
        site.version += 1
        end = max(self._now, site.started + site.steps * site.seconds)
        self._push(end, _STEPPED, number, site.version)

    def _start(self, number: int) -> None:
        """Plan what comes next, or become idle."""
        site, deployment = self._sites[number], self._deployment
        machine = number // deployment.host.replicas
        was_busy = site.plan is not None
        plan = site.replica.plan()
        site.plan = plan
        self._busy[machine] += (plan is not None) - was_busy
        if plan is None:
            return
        seconds = deployment.cost.seconds(plan.load)
        if not seconds > 0:
            raise RuntimeError("a step takes no time: nothing of its load costs anything")
        firsts = sum(not one.drawn for one in plan.drawing)
        site.seconds = deployment.host.duration(seconds, len(plan.drawing), firsts, self._busy[machine])
        site.started = self._now
        site.steps = 1 + (plan.more if self._together else 0)
        self._counts.planned += 1
        self._await(number)

    def _stepped(self, number: int, _: int) -> None:
        """So many steps were taken: count them, see who has ended, go on."""
        site = self._sites[number]
        plan, steps = site.plan, site.steps
        assert plan is not None
        self._count(site, plan, steps)
        ended = site.replica.take(plan, steps)
        for one in ended:
            self._leave(number, one)
        self._start(number)

    def _count(self, site: _Site, plan: Plan, steps: int) -> None:
        counts, window = self._counts, self._window
        counts.steps += steps
        counts.beyond += steps * self._deployment.cost.beyond(plan.load)
        counts.busy += steps * site.seconds
        counts.usage += steps * site.seconds * site.replica.usage
        if not plan.drawing:
            return
        counted = window.steps(site.started, site.seconds, steps)
        counts.window_tokens += len(plan.drawing) * counted
        end, alike = site.started + site.seconds, 0
        inside = window.begin <= end <= window.end
        for one in plan.drawing:
            if one.last == site.started:
                alike += 1  # it drew in the step before
            elif one.last >= 0:
                self._gaps.add(end - one.last, int(inside))
            else:
                one.first = end
            one.last = self._now
        rest = window.steps(end, site.seconds, steps - 1) if steps > 1 else 0
        self._gaps.add(site.seconds, alike * inside + len(plan.drawing) * rest)

    def _leave(self, number: int, one: Answer) -> None:
        """An answer is whole; its user thinks."""
        request, records = one.request, self._records
        records.first[request.number] = one.first
        records.ended[request.number] = self._now
        records.tokens[request.number] = one.drawn
        records.cached[request.number] = one.cached
        self._loads[number] -= 1
        self._under_way -= 1
        self._end_one()
        session = request.prompt.session
        turn = request.number - self._traffic.first[session] + 1
        if turn < self._traffic.counts[session]:
            self._push(self._now + self._traffic.think(session, turn), _COMES, session, turn)
        else:
            self._session_over()

    def _end_one(self) -> None:
        if self._tick is not None:
            self._tick()
