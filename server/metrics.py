"""What operators' tools read at /metrics: vLLM's meanings and buckets under our prefix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from server.engine import EngineStats

_SECONDS = (0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
TTFT_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, *_SECONDS, 160.0, 640.0, 2560.0)
TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, *_SECONDS[1:])
LATENCY_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)

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
        self._success = self._counter("request_success", "Answers that ended well.", "finished_reason")
        self._failure = self._counter("request_failure", "Requests answered with an error.", "status")
        self._prompt = self._counter("prompt_tokens", "Prompt tokens of the base.")
        self._generated = self._counter("generation_tokens", "Tokens generated.")
        self._first = self._histogram("time_to_first_token_seconds", "Arrival to first token.", TTFT_BUCKETS)
        self._between = self._histogram(
            "inter_token_latency_seconds", "Mean time between the tokens of an answer.", TOKEN_BUCKETS
        )
        self._whole = self._histogram(
            "e2e_request_latency_seconds", "Arrival to end of the answer.", LATENCY_BUCKETS
        )

    def observe(self, load: Load) -> None:
        """Reads what is going on from ``load`` whenever somebody asks."""
        self._registry.register(_LoadCollector(self._model, load))

    def succeeded(self, reasons: Iterable[str], prompt: int, generated: int) -> None:
        """A request ended: each choice's finish_reason (``abort`` when its reader left or cancelled), and
        tokens of all.
        """
        for reason in reasons:
            self._success.labels(self._model, reason).inc()
        self._prompt.labels(self._model).inc(prompt)
        self._generated.labels(self._model).inc(generated)

    def failed(self, status: int) -> None:
        """A request was answered with an error."""
        self._failure.labels(self._model, str(status)).inc()

    def timed(self, first: float | None, between: Iterable[float], whole: float) -> None:
        """Seconds from arrival to the first token, between the tokens of each choice, and to the end."""
        if first is not None:
            self._first.labels(self._model).observe(first)
        for seconds in between:
            self._between.labels(self._model).observe(seconds)
        self._whole.labels(self._model).observe(whole)

    def text(self) -> bytes:
        """The exposition that Prometheus scrapes."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"genarm_{name}", text, ["model_name", *labels], registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"genarm_{name}", text, ["model_name"], buckets=buckets, registry=self._registry)


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
        for member, share in stats.cache_usage.items():
            usage.add_metric([self._model, member], share)
        yield usage
        yield self._total("num_preemptions", "Sequences put off to make room.", stats.preemptions)
        computed = stats.prompt_tokens_computed
        yield self._total("prompt_tokens_computed", "Prompt tokens that the base has read.", computed)
        queries, hits = stats.prefix_queries, stats.prefix_hits
        yield self._total("prefix_cache_queries", "Prompt tokens that the base was asked to read.", queries)
        yield self._total("prefix_cache_hits", "Those of them that an earlier request had.", hits)
        guessed, stood = stats.draft_tokens, stats.accepted_tokens
        yield self._total("spec_decode_num_draft_tokens", "Tokens guessed ahead.", guessed)
        yield self._total("spec_decode_num_accepted_tokens", "Those of them that were drawn.", stood)

    def _total(self, name: str, text: str, value: float) -> CounterMetricFamily:
        family = CounterMetricFamily(f"genarm_{name}", text, labels=["model_name"])
        family.add_metric([self._model], value)
        return family

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"genarm_{name}", text, labels=["model_name"])
        family.add_metric([self._model], value)
        return family
