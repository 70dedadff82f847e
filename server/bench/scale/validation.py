"""Does the simulation say what real servers do? One and two of them, on this machine, under the simulated users."""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from server.bench.scale.measure import engine_settings
from server.bench.scale.playing import Served, play
from server.bench.service import running_replica
from server.bench.setup import Setup
from server.simulation.cluster import Cluster, Deployment
from server.simulation.measured import Measured
from server.simulation.outcome import Outcome
from server.simulation.routing import POLICIES, Pool, Router
from server.simulation.sweep import Plan, Simulations
from server.simulation.traffic import Traffic, TrafficSettings, draw_crowd, draw_traffic

BAR = 0.20
"""Relative error of the throughput that is allowed where the servers are never idle."""

MODERATE = 0.7
"""Of the capacity: the other load."""


@dataclass(frozen=True, slots=True)
class Case:
    """A number of replicas under a load: what was simulated beside what was measured, in several runs. Each is a summary as of
    :meth:`~server.simulation.outcome.Outcome.summary`. ``barred``: whether its throughput has to be right."""

    replicas: int
    load: str
    policy: str
    requests: int
    simulated: Mapping[str, Any]
    runs: Sequence[Mapping[str, Any]]
    barred: bool

    @property
    def throughput(self) -> float:
        """Output tokens a second of the median run."""
        return statistics.median(float(run["throughput"]) for run in self.runs)

    @property
    def error(self) -> float:
        """Of the simulated throughput, relative to the measured one."""
        return float(self.simulated["throughput"]) / self.throughput - 1

    @property
    def noise(self) -> float | None:
        """Between the fastest and the slowest run, relative to the median; None of one run."""
        if len(self.runs) < 2:
            return None
        rates = [float(run["throughput"]) for run in self.runs]
        return (max(rates) - min(rates)) / self.throughput

    @property
    def reached(self) -> bool:
        """Whether the error is within the bar, where there is one."""
        return not self.barred or abs(self.error) <= BAR

    def record(self) -> dict[str, Any]:
        """For the file."""
        return {
            "replicas": self.replicas,
            "load": self.load,
            "policy": self.policy,
            "requests": self.requests,
            "simulated": dict(self.simulated),
            "runs": [dict(run) for run in self.runs],
            "throughput": self.throughput,
            "error": self.error,
            "noise": self.noise,
            "bar": BAR if self.barred else None,
            "reached": self.reached,
        }


@dataclass(frozen=True, slots=True)
class Question:
    """What is compared: the users, the policy, requests of each replica, runs, and on how many replicas."""

    settings: TrafficSettings
    policy: str
    requests: int
    runs: int
    replicas: tuple[int, ...] = (1, 2)
    seed: int = 0


def validate(setup: Setup, measured: Measured, vocab: int, question: Question) -> list[Case]:
    """Every case: without a pause (the bar), and at a share of the capacity.

    Raises:
        RuntimeError: a server did not become ready.
        StreamError, httpx.HTTPError: a server did not answer as it should.
    """
    limits = measured.limits
    served = Served(setup.rewards, vocab)
    cases = []
    for count in question.replicas:
        with ExitStack() as stack:
            servers = [
                stack.enter_context(
                    running_replica(setup, engine_settings(limits), max_queue=limits.max_queue)
                )
                for _ in range(count)
            ]
            urls = [server.url for server in servers]
            play(
                urls, replace(served, salt="warm"), _warm(question, count), _router(measured, question, count)
            )
            setup.tick()
            for load, traffic in _loads(measured, question, count).items():
                runs = []
                for run in range(question.runs):
                    # Nothing that the servers have kept of an earlier run is of use in this one: the simulation begins with
                    # nothing, too.
                    router = _router(measured, question, count)
                    runs.append(play(urls, replace(served, salt=f"{load}/{run}"), traffic, router))
                    setup.tick()
                cases.append(_case(measured, question, count, load, traffic, runs))
    return cases


def parts(question: Question) -> int:
    """How often ``validate`` says that something is done."""
    return len(question.replicas) * (1 + 2 * question.runs)


def _loads(measured: Measured, question: Question, replicas: int) -> dict[str, Traffic]:
    """As many users as places, who never think; and users who come so that the replicas are busy for a part of the time."""
    simulations = Simulations(
        measured, Plan((), question.settings, question.requests, 1 << 30, question.seed)
    )
    capacity = simulations.capacity(question.settings.guided)
    turns = question.requests * replicas
    places = measured.limits.max_sequences
    rate = MODERATE * capacity.requests * replicas
    return {
        "never idle": draw_crowd(question.settings, places * replicas, turns, question.seed),
        f"{MODERATE:g} of capacity": draw_traffic(question.settings, rate, turns, question.seed),
    }


def _warm(question: Question, replicas: int) -> Traffic:
    """A few users who do not count."""
    return draw_crowd(question.settings, 4 * replicas, 8 * replicas, question.seed + 1)


def _router(measured: Measured, question: Question, replicas: int) -> Router:
    return POLICIES[question.policy](Pool(replicas, measured.limits.max_sequences, question.seed))


def simulate(measured: Measured, traffic: Traffic, question: Question, replicas: int) -> Outcome:
    """The same users before replicas of the simulation, all on this machine with their client."""
    deployment = Deployment(
        replicas, measured.stores, measured.limits, measured.cost(), measured.host(replicas)
    )
    return Cluster(deployment, traffic, _router(measured, question, replicas)).run()


def _case(
    measured: Measured,
    question: Question,
    replicas: int,
    load: str,
    traffic: Traffic,
    runs: Sequence[Outcome],
) -> Case:
    simulated = simulate(measured, traffic, question, replicas)
    return Case(
        replicas,
        load,
        question.policy,
        len(traffic),
        simulated.summary(),
        [run.summary() for run in runs],
        load == "never idle",
    )
