"""Small clusters whose answers can be told by hand."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from server.simulation.cluster import Cluster, Deployment
from server.simulation.cost import ClassCost, StepCost, StepSample
from server.simulation.host import Host
from server.simulation.limits import Limits
from server.simulation.load import MemberLoad
from server.simulation.measured import Measured, Work
from server.simulation.outcome import Outcome, Window
from server.simulation.routing import POLICIES, Pool, Router
from server.simulation.traffic import Traffic, TrafficSettings

Simulate = Callable[..., Outcome]


@pytest.fixture
def simulate() -> Simulate:
    """``simulate(traffic, replicas=1, seconds=1.0, ...)``: steps that take ``seconds`` whatever they have to do, unless a
    ``cost`` says otherwise."""

    def run(
        traffic: Traffic,
        replicas: int = 1,
        *,
        seconds: float = 1.0,
        cost: StepCost | None = None,
        limits: Limits | None = None,
        host: Host | None = None,
        policy: str = "random",
        router: Router | None = None,
        together: bool = True,
        window: Window | None = None,
    ) -> Outcome:
        limits = limits or Limits(64 * 1000, max_queue=1_000_000)
        cost = cost or flat_cost(seconds)
        deployment = Deployment(replicas, range(len(cost.classes)), limits, cost, host or Host())
        chosen = router or POLICIES[policy](Pool(replicas, limits.max_sequences))
        return Cluster(deployment, traffic, chosen, together=together, window=window).run()

    return run


@pytest.fixture
def real_cost() -> StepCost:
    """A base and two rewards: every part costs something."""
    base = ClassCost(0.010, 0.0004, 2e-6, 2e-7, 3e-6, (8, 64), (0.0002, 0.0008, 0.0005))
    reward = ClassCost(0.003, 0.0001, 1e-6, 1e-7, 1e-6, (8,), (0.0001, 0.0002))
    return StepCost(("base", "rewards", "rewards"), {"base": base, "rewards": reward})


def flat_cost(seconds: float, members: int = 1) -> StepCost:
    """Each step of the base alone takes so long."""
    free = ClassCost(0.0, 0.0, 0.0, 0.0, 0.0, (), (0.0,))
    costs = {"base": ClassCost(seconds, 0.0, 0.0, 0.0, 0.0, (), (0.0,)), "rewards": free}
    return StepCost(("base", *("rewards",) * (members - 1)), costs)


@pytest.fixture
def one_turn() -> Callable[[Sequence[float], Sequence[int], int], Traffic]:
    """``one_turn(starts, outputs, prompt)``: sessions of one turn each, the base alone, nothing in common."""

    def make(starts: Sequence[float], outputs: Sequence[int], prompt: int = 1) -> Traffic:
        count = len(starts)
        zeros = np.zeros(count, dtype=np.int64)
        return Traffic(
            np.asarray(starts, dtype=float),
            zeros + 1,
            zeros,
            0,
            zeros + prompt,
            np.asarray(outputs, dtype=np.int64),
            zeros.astype(float),
            zeros,
            ((0,),),
        )

    return make


@pytest.fixture
def make_measured(real_cost: StepCost) -> Callable[..., Measured]:
    """``make_measured(**fields)``: what would have been measured of a machine with these costs."""

    def make(**changes: Any) -> Measured:
        rng = np.random.default_rng(0)
        samples = []
        for number in range(200):
            rows, chunk, guided = int(rng.integers(1, 9)), int(rng.choice([0, 128])), number % 3
            load = [MemberLoad() for _ in range(3)]
            for member in range(1 + guided):
                width = 64 * int(rng.integers(1, 12))
                load[member] = MemberLoad(rows + chunk, rows, rows * width, chunk * width)
            samples.append(StepSample(load, real_cost.seconds(load)))
        given: dict[str, Any] = {
            "about": {
                "command": "genarm simulate measure --made-up",
                "machine": "a made-up machine",
                "settings": {},
                "traffic": TrafficSettings(think="2").as_json(),
                "off_cpu": 0.01,
            },
            "members": ("base", "one", "two"),
            "classes": ("base", "rewards", "rewards"),
            "stores": (0, 1, 1),
            "limits": Limits(64 * 400, max_sequences=8, max_queue=64),
            "steps": samples[::2],
            "checks": samples[1::2],
            "cores": 2,
            "beside": (1.0, 1.2),
            "server": Work(1e-4, 2e-3),
            "client": Work(2e-4, 1e-3),
            "arrival_seconds": 0.004,
            "central": {
                "scrape_seconds": 0.006,
                "gateway_token_seconds": None,
                "gateway_request_seconds": None,
                "registry_call_seconds": None,
            }
            | {f"route_{policy}_{count}": 1e-8 * count + 1e-6 for policy in POLICIES for count in (10, 1000)},
        }
        return Measured(**(given | changes))

    return make
