"""What a request and a token ask of the processes of ``genarm deploy ray`` that are no replicas, in CPU (Linux)."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from server.bench.client import stream_all
from server.bench.result import Row
from server.bench.scale.cpu import process_seconds

LONG, SHORT = 64, 4
"""Tokens of the answers whose CPU is compared."""

IDLE_SECONDS = 5.0
"""In which nobody asks: what the processes use then is not the requests'."""

KNOWN = 1000
"""Replicas that the registry hears of; and calls that are counted."""

_TITLES = {"proxy": "ray::ProxyActor", "gateway": "ray::ServeReplica:genarm:gateway"}


@dataclass(frozen=True, slots=True)
class CentralWork:
    """CPU seconds by what ``genarm simulate document --costs`` calls them; a sample a run."""

    samples: Mapping[str, Sequence[float]]

    @property
    def reached(self) -> bool:
        """There is no bar."""
        return True

    @property
    def costs(self) -> Mapping[str, float]:
        """Medians."""
        return {name: statistics.median(values) for name, values in self.samples.items()}

    def row(self) -> Row:
        """Microseconds."""
        costs = {name: 1e6 * value for name, value in self.costs.items()}
        gateway = [1e6 * value for value in self.samples["gateway_token_seconds"]]
        return Row(
            "CPU beside replicas",
            f"gateway {costs['gateway_token_seconds']:.0f} µs a token, {costs['gateway_request_seconds']:.0f} a request",
            f"proxy {costs['proxy_token_seconds']:.0f} µs a token, {costs['proxy_request_seconds']:.0f} a request",
            f"registry {costs['registry_call_seconds']:.0f} µs a call",
            f"gateway {min(gateway):.0f} – {max(gateway):.0f} µs a token",
            "none",
        )

    def record(self) -> Mapping[str, Any]:
        """Medians and all samples."""
        return {
            "name": "CPU beside replicas",
            "unit": "CPU seconds",
            "costs": dict(self.costs),
            "samples": {name: list(values) for name, values in self.samples.items()},
        }


def central_work(
    url: str, bodies: Sequence[Mapping[str, Any]], runs: int, tick: Callable[[], object]
) -> CentralWork:
    """Of the proxy and the gateway in front of one replica at ``url``, with all of ``bodies`` side by side; and of the registry.

    Other deployments on this machine must not be asked anything meanwhile.

    Raises:
        StreamError, httpx.HTTPError: a request was not answered whole.
        RuntimeError: no such processes are seen here.
    """
    samples: dict[str, list[float]] = {
        f"{name}_{what}_seconds": [] for name in _TITLES for what in ("token", "request")
    }
    for _ in range(runs):
        idle = _used(lambda: time.sleep(IDLE_SECONDS))
        short, long = (_used(partial(stream_all, url, _of(bodies, length))) for length in (SHORT, LONG))
        for name in _TITLES:
            rate = idle.seconds[name] / idle.lasted
            few, many = (max(0.0, one.seconds[name] - rate * one.lasted) for one in (short, long))
            token = max(0.0, (many - few) / (len(bodies) * (LONG - SHORT)))
            samples[f"{name}_token_seconds"].append(token)
            samples[f"{name}_request_seconds"].append(max(0.0, few / len(bodies) - SHORT * token))
        tick()
    samples["registry_call_seconds"] = [registry_call_seconds()]
    tick()
    return CentralWork(samples)


@dataclass(frozen=True, slots=True)
class _Used:
    """CPU by name, in so many seconds."""

    lasted: float
    seconds: Mapping[str, float]


def _used(work: Callable[[], object]) -> _Used:
    before, started = _seconds(), time.perf_counter()
    work()
    lasted, after = time.perf_counter() - started, _seconds()
    return _Used(lasted, {name: after[name] - before[name] for name in _TITLES})


def _seconds() -> Mapping[str, float]:
    return {name: process_seconds(title) for name, title in _TITLES.items()}


def _of(bodies: Sequence[Mapping[str, Any]], tokens: int) -> list[Mapping[str, Any]]:
    return [{**body, "max_tokens": tokens} for body in bodies]


def registry_call_seconds() -> float:
    """CPU seconds of a call to the registry of keys, on a Ray of its own, with ``KNOWN`` replicas that it has heard of."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told
    import ray
    from ray import serve

    from server.replicas.registry import Registry

    ray.init("local", include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="Disabled")
        options = serve.deployment(Registry).options(name="registry", ray_actor_options={"num_cpus": 0})
        handle = serve.run(options.bind(), name="bench", route_prefix=None)
        title = "ray::ServeReplica:bench:registry"
        for number in range(KNOWN):
            handle.report.remote(f"replica-{number}", 1, {"owner": 1}).result()
        before = process_seconds(title)
        for number in range(KNOWN):
            handle.report.remote(f"replica-{number}", 2, {"owner": 2}).result()
        return (process_seconds(title) - before) / KNOWN
    finally:
        serve.shutdown()
        ray.shutdown()
