"""Comparisons of two ways to do the same work, run in turn so that a noisy machine is noisy for both."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from arm_models.loading import Family, ModelSource, load_family
from server.bench.peer import generate_one_by_one
from server.bench.workload import Workload, output_tokens
from server.engine import ATTENTION, Engine, EngineConfig, SequenceRequest, build_members, register_attention


@dataclass(frozen=True, slots=True)
class Comparison:
    """Output tokens per second of ours and the peer's, one sample a run; ``bar`` is what the ratio has to reach."""

    name: str
    ours: str
    peer: str
    bar: float
    our_rates: tuple[float, ...]
    peer_rates: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median of ours over median of the peer's."""
        return statistics.median(self.our_rates) / statistics.median(self.peer_rates)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest ratio of runs made one after the other."""
        ratios = [ours / peer for ours, peer in zip(self.our_rates, self.peer_rates, strict=True)]
        return min(ratios), max(ratios)


def compare(
    name: str,
    sides: Sequence[tuple[str, Callable[[], None]]],
    tokens: int,
    runs: int,
    bar: float,
    tick: Callable[[], object],
) -> Comparison:
    """Run both sides ``runs`` times, alternating which goes first, after one run of each that does not count."""
    (ours, run_ours), (peer, run_peer) = sides
    rates: dict[str, list[float]] = {ours: [], peer: []}
    run_ours()
    run_peer()
    tick()
    for number in range(runs):
        order = [(ours, run_ours), (peer, run_peer)]
        for label, run in order if number % 2 == 0 else reversed(order):
            started = time.perf_counter()
            run()
            rates[label].append(tokens / (time.perf_counter() - started))
        tick()
    return Comparison(name, ours, peer, bar, tuple(rates[ours]), tuple(rates[peer]))


def make_engine(sources: Sequence[ModelSource], max_sequences: int) -> Engine:
    """An engine on freshly loaded models."""
    register_attention()
    family = load_family(sources[0], sources[1:], attention=ATTENTION)
    config = EngineConfig(max_sequences=max_sequences, max_step_tokens=max(512, max_sequences))
    return Engine(build_members(family, config), config)


def weight_zero(
    sources: Sequence[ModelSource], workload: Workload, runs: int, tick: Callable[[], object]
) -> Comparison:
    """A server with rewards whose weights are all 0, against the same server without rewards."""
    with_rewards = make_engine(sources, workload.requests)
    without = make_engine(sources[:1], workload.requests)
    names = [source.name for source in sources[1:]]
    vocab = with_rewards.members["base"].vocab_size
    zero = workload.build(vocab, names, guided=False)
    plain = workload.build(vocab, [], guided=False)
    sides = [
        ("rewards at weight 0", lambda: _drain(with_rewards, zero)),
        ("no rewards", lambda: _drain(without, plain)),
    ]
    return compare("weight 0", sides, output_tokens(zero), runs, 0.97, tick)


def against_generate(
    sources: Sequence[ModelSource], workload: Workload, runs: int, tick: Callable[[], object]
) -> Comparison:
    """All requests at once through the engine, against one at a time through ``generate`` with a LogitsProcessor."""
    engine = make_engine(sources, workload.requests)
    stock: Family = load_family(sources[0], sources[1:], attention="sdpa")
    names = [source.name for source in sources[1:]]
    requests = workload.build(engine.members["base"].vocab_size, names, guided=True)
    sides = [
        (f"{workload.requests} at once", lambda: _drain(engine, requests)),
        ("generate, one at a time", lambda: generate_one_by_one(stock, requests)),
    ]
    return compare("guided batch", sides, output_tokens(requests), runs, 6.0, tick)


def _drain(engine: Engine, requests: Sequence[SequenceRequest]) -> None:
    engine.generate(requests)


SCENARIOS = {"zero": weight_zero, "generate": against_generate}
"""Name → comparison."""
