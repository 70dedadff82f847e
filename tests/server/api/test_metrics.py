"""What /metrics counts is what a client counts for itself, over a socket, exactly."""

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.engine import EngineStats
from server.engine.histogram import HistogramCounts
from server.engine.timings import EngineTimes
from server.metrics import Metrics

TTFT = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80),
    *(160, 640, 2560),
)
PER_TOKEN = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80),
)
LISTED = {
    *("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prefix_cache_queries"),
    *("prefix_cache_hits", "num_preemptions", "prompt_tokens", "generation_tokens", "request_success"),
    *("time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds"),
    *("request_queue_time_seconds", "iteration_tokens", "member_forward_seconds", "mix_seconds"),
    *("preference_weight", "kl_base_guided", "guided_overhead_ratio", "start_time_seconds"),
}

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every value by its name, without the prefix, and its labels, without the model's."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels.pop("model_name") == "tiny"
            found[sample.name.removeprefix("genarm_"), frozenset(sample.labels.items())] = sample.value
    return found


class Count:
    """What is counted from here to each ``look`` at /metrics."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._before = self._now = self._read()

    def look(self) -> None:
        self._now = self._read()

    def __call__(self, name: str, **labels: str) -> float:
        key = name, frozenset(labels.items())
        return self._now.get(key, 0.0) - self._before.get(key, 0.0)

    def by(self, name: str, label: str) -> dict[str, float]:
        """What has changed, by one label."""
        changed = {
            key: value - self._before.get(key, 0.0) for key, value in self._now.items() if key[0] == name
        }
        return {dict(key[1])[label]: value for key, value in changed.items() if value}

    def _read(self) -> Samples:
        with self._server.client() as client:
            return samples(client.get("/metrics").text)


REQUESTS: list[dict[str, Any]] = [
    {"max_tokens": 9, "preferences": {"helpful": 1.5}, "guidance": {"beta": 0.5, "report": "summary"}},
    {"max_tokens": 7, "n": 3, "guidance": {"report": "tokens"}},
    {"max_tokens": 12, "preferences": {"harmless": -1.0}},
    {"max_tokens": 1, "preferences": {}},
    {"max_tokens": 30, "ignore_eos": False, "seed": 1, "stop": ["e", "a", "o", "t"]},
]
"""Each is asked for whole and as a stream."""


def asked(server: Any, fields: dict[str, Any], *, streamed: bool) -> dict[str, Any]:
    """The parts of an answer that are counted."""
    fields = {"ignore_eos": True, **fields}
    if not streamed:
        answer: dict[str, Any] = server.chat(**fields).json()
        reasons = [choice["finish_reason"] for choice in answer["choices"]]
    else:
        chunks = server.stream(stream_options={"include_usage": True}, **fields)
        reasons = [one["finish_reason"] for chunk in chunks for one in chunk["choices"]]
        answer = chunks[-1] | next(chunk for chunk in chunks if chunk.get("guidance"))
        answer["usage"] = chunks[-1]["usage"]
    return {**answer, "reasons": [reason for reason in reasons if reason]}


def test_counters_agree_exactly_with_what_a_client_counts(real: Any) -> None:
    count = Count(real)
    with ThreadPoolExecutor(5) as pool:
        answers = [
            future.result()
            for streamed in (True, False)
            for future in [pool.submit(asked, real, fields, streamed=streamed) for fields in REQUESTS]
        ]
    assert real.chat(max_tokens=0).status_code == 400
    assert real.chat(model="nobody").status_code == 404
    count.look()
    generated = sum(answer["usage"]["completion_tokens"] for answer in answers)
    choices = sum(len(answer["reasons"]) for answer in answers)
    assert count("generation_tokens_total") == generated
    assert count("prompt_tokens_total") == sum(answer["usage"]["prompt_tokens"] for answer in answers)
    reasons = Counter(reason for answer in answers for reason in answer["reasons"])
    assert len(reasons) == 2
    assert count.by("request_success_total", "finished_reason") == reasons
    assert count.by("request_failure_total", "status") == {"400": 1, "404": 1}
    assert count("time_to_first_token_seconds_count") == len(answers)
    assert count("e2e_request_latency_seconds_count") == len(answers)
    assert count("request_queue_time_seconds_count") == len(answers)
    assert count("inter_token_latency_seconds_count") == generated - choices
    assert count("prefix_cache_queries_total") == count("prompt_tokens_total")
    cached = sum(answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers)
    assert count("prefix_cache_hits_total") == cached
    told = [answer["guidance"]["mean_kl"] for answer in answers if "mean_kl" in answer["guidance"]]
    assert len(told) == 4
    assert count("kl_base_guided_count") == len(told)
    assert count("kl_base_guided_sum") == pytest.approx(sum(told), rel=1e-9)
    for reward in ("helpful", "harmless"):
        weights = [one["guidance"]["preferences"][reward] / one["guidance"]["beta"] for one in answers]
        for bound in (-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0):
            below = sum(weight <= bound for weight in weights)
            assert count("preference_weight_bucket", reward=reward, le=str(bound)) == below, (reward, bound)
    first, whole = count("time_to_first_token_seconds_sum"), count("e2e_request_latency_seconds_sum")
    assert 0 <= count("request_queue_time_seconds_sum") < first < whole


def test_a_cancelled_answer_is_an_abort_with_the_tokens_it_had(
    scripted: Callable[..., Any], until: Any
) -> None:
    with scripted() as server, server.client() as client:
        count = Count(server)
        options = {"include_usage": True}
        with server.open(client, max_tokens=50, stream_options=options) as events:
            id = next(events)["id"]
            server.engine.allow(5)
            with server.client() as other:
                path = f"/v1/chat/completions/{id}"
                until(lambda: other.get(path).json()["tokens"] == 5)
                assert other.delete(path).status_code == 200
            usage = list(events)[-2]["usage"]
        count.look()
        assert usage["completion_tokens"] == count("generation_tokens_total") == 5
        assert count.by("request_success_total", "finished_reason") == {"abort": 1}


def test_what_the_engine_did_is_what_the_answers_took(real: Any, until: Any) -> None:
    count = Count(real)
    usage = real.chat(preferences={}, max_tokens=6, ignore_eos=True).json()["usage"]
    count.look()
    computed = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
    assert count("prompt_tokens_computed_total") == computed
    # One chunk of the prompt, then a token a step; the last token is read by nobody.
    assert count("iteration_tokens_count") == count("step_seconds_count") == 6
    assert count("iteration_tokens_sum") == computed + 5
    assert count("mix_seconds_count") == 6
    assert count.by("member_forward_seconds_count", "member") == {"base": 6}
    base = count("member_forward_seconds_sum", member="base")
    assert 0 < base < base + count("mix_seconds_sum") < count("step_seconds_sum")
    real.chat(preferences={"helpful": 1.0}, max_tokens=6, ignore_eos=True)
    count.look()
    assert count.by("member_forward_seconds_count", "member")["helpful"] >= 6
    assert "harmless" not in count.by("member_forward_seconds_count", "member")
    with real.client() as client:
        assert samples(client.get("/metrics").text)["guided_overhead_ratio", frozenset()] > 1
    until(lambda: real.serving.dispatcher.stats.running == 0)


def test_every_metric_that_operators_read_is_there_with_its_buckets(real: Any) -> None:
    real.chat(max_tokens=2, guidance={"report": "summary"}, ignore_eos=True)
    with real.client() as client:
        response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    assert {f"genarm_{name}" for name in LISTED} <= set(families)
    assert all(family.documentation for family in families.values())
    for name, bounds in (("time_to_first_token_seconds", TTFT), ("inter_token_latency_seconds", PER_TOKEN)):
        buckets = families[f"genarm_{name}"].samples
        told = [float(one.labels["le"]) for one in buckets if one.name.endswith("_bucket")]
        assert told == [*map(float, bounds), float("inf")]
    # Each has a row in the manual; those that begin with the first failure are only there then.
    manual = (Path(__file__).parents[3] / "docs/serving.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (?:counter|gauge|histogram)", manual, re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"\w+", row)}
    exposed = {name.removeprefix("genarm_") for name in families if not name.endswith("_created")}
    assert exposed | {"request_failure"} == documented


def test_when_it_started_stays_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.5)
    metrics = Metrics("tiny")
    monkeypatch.undo()
    for _ in range(2):
        assert samples(metrics.text().decode())["start_time_seconds", frozenset()] == 1_800_000_000.5


def test_versions_of_a_reward_are_one_to_whoever_reads() -> None:
    one, other = HistogramCounts((1.0,), (1, 0), 0.5), HistogramCounts((1.0,), (2, 3), 9.0)
    times = EngineTimes(one, one, {"base": one, "kind": one, "kind#2": other}, one, None)
    stats = EngineStats(1, 0, 0, 7, {"base": 0.5, "kind": 0.25, "kind#2": 0.75}, times=times)
    metrics = Metrics("tiny")
    metrics.observe(SimpleNamespace(admitted=1, stats=stats))  # type: ignore[arg-type]
    found = samples(metrics.text().decode())
    kind = frozenset({("member", "kind")})
    assert found["kv_cache_usage_perc", kind] == 0.75
    assert found["member_forward_seconds_sum", kind] == 9.5
    assert found["member_forward_seconds_count", kind] == 6
    assert not any("#" in value for _, labels in found for _, value in labels)
    assert not any(name == "guided_overhead_ratio" for name, _ in found)
