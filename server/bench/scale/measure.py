"""Everything a simulation needs to know of this machine, measured in one go."""

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from server.bench.machine import machine
from server.bench.scale.neighbours import slowdowns
from server.bench.scale.overheads import overheads, routing_seconds, scrape
from server.bench.scale.playing import Served
from server.bench.scale.recording import Phase, Recording, record, store_of
from server.bench.service import running_replica
from server.bench.setup import Setup
from server.engine import Engine
from server.simulation.bottleneck import CENTRAL
from server.simulation.cost import StepSample, fit
from server.simulation.limits import BLOCK, Limits
from server.simulation.load import MemberLoad
from server.simulation.measured import Measured
from server.simulation.routing import POLICIES
from server.simulation.traffic import TrafficSettings, draw_traffic

GUIDED = (0.5, 0.0, 1.0)
"""Shares of guided traffic under which steps are recorded: one alone would not tell the base's part from the rewards'."""

TOGETHER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Answers under way in a phase, as far as there are places; and half as many again as there are."""

ROUTED = (10, 100, 1000)
"""Replicas among which choices are timed."""

RUN = 5
"""Steps in a row that go to the fit, and then to the checks."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: ``steps`` of each phase, engines side by side, ``runs`` of what is compared."""

    steps: int = 60
    side_by_side: int = 2
    runs: int = 5


def parts(limits: Limits, effort: Effort) -> int:
    """How often ``measure`` says that something is done."""
    return len(_phases(limits, effort)) * len(GUIDED) + 1 + (effort.side_by_side - 1) + 2


def measure(
    setup: Setup, settings: TrafficSettings, limits: Limits, effort: Effort, about: Mapping[str, Any]
) -> Measured:
    """Steps under the traffic's prompts, what neighbours do to them, and the CPU beside them.

    Raises:
        OutOfStepError: the engine did something else than the model of it.
        RuntimeError: a server did not become ready, or a neighbour ended.
        ValueError: a context of the traffic has no room.
    """
    engine = setup.engine(
        prefix_share=limits.prefix_share,
        max_sequences=limits.max_sequences,
        kv_tokens=limits.kv_tokens,
        overlap=False,  # a step that begins before the last is told cannot be timed by itself
    )
    names, classes = tuple(engine.members), _classes(engine)
    stores = _stores(engine)
    vocab = min(member.vocab_size for member in engine.members.values())
    recording = _record(setup, engine, settings, limits, effort)
    del engine
    steps, checks = _halves(recording.samples)
    beside = slowdowns(setup, effort.side_by_side, effort.runs)
    with running_replica(setup, engine_settings(limits), max_queue=limits.max_queue) as server:
        served = Served(setup.rewards, vocab)
        found = overheads(server, served, settings, limits.max_sequences, setup.tick, setup.threads)
        seconds, size = scrape(server)
    one_chunk = [MemberLoad() for _ in names]
    one_chunk[0] = MemberLoad(tokens=8, draws=1, read=8 * BLOCK)
    arrival = max(0.0, found.first_token - fit(steps, classes).seconds(one_chunk))
    central: dict[str, float | None] = dict.fromkeys(CENTRAL)
    central |= {"scrape_seconds": seconds, "scrape_bytes": size} | _routing()
    return Measured(
        {
            **about,
            "machine": machine(),
            "traffic": settings.as_json(),
            "effort": asdict(effort),
            "off_cpu": recording.off_cpu,
        },
        names,
        classes,
        stores,
        limits,
        steps,
        checks,
        _cores(),
        tuple(beside),
        found.server,
        found.client,
        arrival,
        central,
    )


def engine_settings(limits: Limits) -> dict[str, Any]:
    """Of a deployment: what the limits say of its engine."""
    names = ("kv_tokens", "max_sequences", "prefill_chunk", "max_step_tokens", "prefix_share")
    return {name: getattr(limits, name) for name in names} | {"cache": limits.cache}


def _record(
    setup: Setup, engine: Engine, settings: TrafficSettings, limits: Limits, effort: Effort
) -> Recording:
    """Phases with few and many answers under way, in no order that the machine's moods could follow."""
    phases = _phases(limits, effort)
    whole = Recording()
    for number, guided in enumerate(GUIDED):
        traffic = draw_traffic(replace(settings, guided=guided), 1.0, 20 * limits.max_sequences, seed=number)
        if not number:
            record(engine, limits, traffic, [Phase(limits.max_sequences, effort.steps)])  # warm
            setup.tick()
        shuffled = random.Random(number).sample(phases, len(phases))
        found = record(engine, limits, traffic, shuffled, setup.tick)
        whole.extend(found)
    return whole


def _phases(limits: Limits, effort: Effort) -> list[Phase]:
    places = limits.max_sequences
    together = [count for count in TOGETHER if count < places] + [places, places + places // 2]
    return [Phase(count, effort.steps) for count in together]


def _halves(samples: Sequence[StepSample]) -> tuple[list[StepSample], list[StepSample]]:
    """Steps to fit and steps to check, a few in a row of each."""
    fitted = [sample for number, sample in enumerate(samples) if not number // RUN % 2]
    checks = [sample for number, sample in enumerate(samples) if number // RUN % 2]
    return fitted, checks


def _classes(engine: Engine) -> tuple[str, ...]:
    """By member: the base, and rewards that have the same shape are alike."""
    shapes: dict[object, str] = {}
    found = []
    for number, member in enumerate(engine.members.values()):
        shape = (number == 0, member.cache.shape, member.vocab_size)
        name = "base" if not number else f"rewards {len(shapes)}" if len(shapes) > 1 else "rewards"
        found.append(shapes.setdefault(shape, name))
    return tuple(found)


def _stores(engine: Engine) -> tuple[int, ...]:
    """By member, the first one whose rows lie in the same slabs."""
    found = [store_of(member) for member in engine.members.values()]
    return tuple(
        place if own is None else next(first for first, store in enumerate(found) if store is own)
        for place, own in enumerate(found)
    )


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _routing() -> dict[str, float]:
    return {
        f"route_{policy}_{replicas}": routing_seconds(policy, replicas)
        for policy in POLICIES
        for replicas in ROUTED
    }
