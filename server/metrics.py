"""What operators' tools read at /metrics: vLLM's meanings and buckets under our prefix."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from server.engine import EngineStats
    from server.engine.histogram import HistogramCounts
    from server.engine.timings import EngineTimes

T = TypeVar("T")

_SECONDS = (0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
TTFT_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, *_SECONDS, 160.0, 640.0, 2560.0)
TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, *_SECONDS[1:])
LATENCY_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)

WEIGHT_BUCKETS = (-100.0, -2.0, -1.0, -0.5, 0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 100.0)
KL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Load(Protocol):
    """Where the gauges are read: choices let in, and the engine's own figures while there is an engine."""

    @property
    def admitted(self) -> int:
        """Choices being tokenized, queued or answered."""

    @property
    def stats(self) -> EngineStats | None:
        """What the engine is doing."""


class Metrics:
    """One server's counters, in a registry of their own."""

    def __init__(self, model: str) -> None:
        self._registry = CollectorRegistry()
        self._model = model
        started = Gauge(
            "genarm_start_time_seconds",
            "When the server was started.",
            ["model_name"],
            registry=self._registry,
        )
        started.labels(model).set(time.time())
        self._success = self._counter("request_success", "Answers that ended well.", "finished_reason")
        self._failure = self._counter("request_failure", "Requests answered with an error.", "status")
        self._weight = self._histogram(
            "preference_weight", "Weight α/β of a reward in a request as it began.", WEIGHT_BUCKETS, "reward"
        )
        # What has no label of its own is there from the start, so that rates of it have a beginning.
        self._prompt = self._counter("prompt_tokens", "Prompt tokens of the base.").labels(model)
        self._generated = self._counter("generation_tokens", "Tokens generated.").labels(model)
        self._first = self._histogram(
            "time_to_first_token_seconds", "Arrival to first token.", TTFT_BUCKETS
        ).labels(model)
        self._between = self._histogram(
            "inter_token_latency_seconds", "From one token of an answer to the next.", TOKEN_BUCKETS
        ).labels(model)
        self._whole = self._histogram(
            "e2e_request_latency_seconds", "Arrival to end of the answer.", LATENCY_BUCKETS
        ).labels(model)
        self._queued = self._histogram(
            "request_queue_time_seconds",
            "What a request waited in the engine before its first answer was begun.",
            LATENCY_BUCKETS,
        ).labels(model)
        self._kl = self._histogram(
            "kl_base_guided",
            "KL(guided ‖ base) in nats, mean over the tokens of each request that asked for a report.",
            KL_BUCKETS,
        ).labels(model)

    def observe(self, load: Load) -> None:
        """Reads what is going on from ``load`` whenever somebody asks."""
        self._registry.register(_LoadCollector(self._model, load))

    def succeeded(self, reasons: Iterable[str], prompt: int, generated: int) -> None:
        """A request ended: each choice's finish_reason (``abort`` when its reader left or cancelled), and
        tokens of all.
        """
        for reason in reasons:
            self._success.labels(self._model, reason).inc()
        self._prompt.inc(prompt)
        self._generated.inc(generated)

    def failed(self, status: int) -> None:
        """A request was answered with an error."""
        self._failure.labels(self._model, str(status)).inc()

    def timed(
        self, queued: float | None, first: float | None, between: Iterable[float], whole: float
    ) -> None:
        """Seconds in the engine's queue, from arrival to the first token, from each token of a choice to its
        next, and from arrival to the end; None where it did not come to that.
        """
        if queued is not None:
            self._queued.observe(queued)
        if first is not None:
            self._first.observe(first)
        for seconds in between:
            self._between.observe(seconds)
        self._whole.observe(whole)

    def guided(self, weights: Mapping[str, float], kl: float | None) -> None:
        """A request's α/β by reward, and its mean KL(guided ‖ base) in nats, where it was measured."""
        for reward, weight in weights.items():
            self._weight.labels(self._model, reward).observe(weight)
        if kl is not None:
            self._kl.observe(kl)

    def text(self) -> bytes:
        """The exposition that Prometheus scrapes."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"genarm_{name}", text, ["model_name", *labels], registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        names = ["model_name", *labels]
        return Histogram(f"genarm_{name}", text, names, buckets=buckets, registry=self._registry)


class _LoadCollector(Collector):
    def __init__(self, model: str, load: Load) -> None:
        self._model = model
        self._load = load

    def collect(self) -> Iterator[Metric]:
        stats = self._load.stats
        running = 0 if stats is None else stats.running
        yield self._gauge("num_requests_running", "Answers in the engine's batch.", running)
        waiting = max(self._load.admitted - running, 0)
        yield self._gauge("num_requests_waiting", "Answers let in that are not in the batch.", waiting)
        if stats is None:
            return
        usage = GaugeMetricFamily(
            "genarm_kv_cache_usage_perc", "Cache in use, 0 to 1.", labels=["model_name", "member"]
        )
        for name, shares in _by_name(stats.cache_usage).items():
            usage.add_metric([self._model, name], max(shares))
        yield usage
        yield self._total("num_preemptions", "Sequences put off to make room.", stats.preemptions)
        yield self._total(
            "memory_faults", "Steps that ran out of memory and were done again.", stats.memory_faults
        )
        computed = stats.prompt_tokens_computed
        yield self._total("prompt_tokens_computed", "Prompt tokens that the base has read.", computed)
        queries, hits = stats.prefix_queries, stats.prefix_hits
        yield self._total("prefix_cache_queries", "Prompt tokens that the base was asked to read.", queries)
        yield self._total("prefix_cache_hits", "Those of them that an earlier request had.", hits)
        guessed, stood = stats.draft_tokens, stats.accepted_tokens
        yield self._total("spec_decode_num_draft_tokens", "Tokens guessed ahead.", guessed)
        yield self._total("spec_decode_num_accepted_tokens", "Those of them that were drawn.", stood)
        if stats.times is not None:
            yield from self._times(stats.times)

    def _times(self, times: EngineTimes) -> Iterator[Metric]:
        yield self._histogram(
            "iteration_tokens",
            "Tokens of a step: those of the model that read most of them.",
            {(): times.step_tokens},
        )
        yield self._histogram("step_seconds", "A step of the engine.", {(): times.step_seconds})
        yield self._histogram(
            "member_forward_seconds",
            "A forward, by model; those that run in one forward share its time as they share its tokens.",
            {(name,): _sum(counts) for name, counts in _by_name(times.forward_seconds).items()},
            "member",
        )
        yield self._histogram(
            "mix_seconds",
            "Adding up the models' logits and drawing tokens, once for each time that tokens are drawn.",
            {(): times.mix_seconds},
        )
        if times.overhead is not None:
            yield self._gauge(
                "guided_overhead_ratio",
                "Seconds of steps over seconds of the base's forwards in them (its share of those it runs in with "
                "other models), over about the last 100 steps in which it ran: 1 is a base alone at no cost but its own.",
                times.overhead,
            )

    def _histogram(
        self, name: str, text: str, counts: Mapping[tuple[str, ...], HistogramCounts], *labels: str
    ) -> HistogramMetricFamily:
        family = HistogramMetricFamily(f"genarm_{name}", text, labels=["model_name", *labels])
        for values, histogram in counts.items():
            bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
            up_to = accumulate(map(float, histogram.counts))
            family.add_metric([self._model, *values], list(zip(bounds, up_to, strict=True)), histogram.total)
        return family

    def _total(self, name: str, text: str, value: float) -> CounterMetricFamily:
        family = CounterMetricFamily(f"genarm_{name}", text, labels=["model_name"])
        family.add_metric([self._model], value)
        return family

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"genarm_{name}", text, labels=["model_name"])
        family.add_metric([self._model], value)
        return family


def _by_name(values: Mapping[str, T]) -> dict[str, list[T]]:
    """What members have, by the names that the deployment gives them: there may be several versions of one at a
    time, which the engine calls ``helpful``, ``helpful#2`` and so on.
    """
    named: dict[str, list[T]] = {}
    for member, value in values.items():
        named.setdefault(member.partition("#")[0], []).append(value)
    return named


def _sum(histograms: Sequence[HistogramCounts]) -> HistogramCounts:
    """Several histograms of the same bounds as one."""
    counts = tuple(sum(column) for column in zip(*(one.counts for one in histograms), strict=True))
    return replace(histograms[0], counts=counts, total=sum(one.total for one in histograms))
