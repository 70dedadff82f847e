"""Debian's Prometheus reads a real server that answers: every query of the dashboard, every alert, and the counters a client
can count for itself. ``make test-operations``.
"""

import contextlib
import json
import math
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

pytestmark = pytest.mark.operations

KEY = "sk-operations"
DONE = "[DONE]"
SCRAPE_SECONDS = 1
WINDOW = "20s"
"""What stands in for Grafana's $__rate_interval: traffic never pauses for as long."""

WORDS = "the kettle is hot and the garden is green, water the plants before the sun is high " * 2


LONG = 3500
"""Tokens of an answer that goes on while others ask."""

MAX_BODY = 20_000
REFUSED = ("400", "401", "404", "413", "429")


@dataclass
class Client:
    """Sends requests of every kind, one after the other, and keeps count of what it got."""

    url: str
    failures: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    """Those that were answered."""
    prompt: int = 0
    generated: int = 0

    def __post_init__(self) -> None:
        self._http = httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {KEY}"}, timeout=120)
        self._turn = 0

    def close(self) -> None:
        """Sends nothing more."""
        self._http.close()

    def turn(self) -> None:
        """Answers with and without a report under weights of their own, one of them ended half-way, and what is refused."""
        self._turn += 1
        for weight in (0.5, -0.5, 1.0):
            preferences = {"helpful": weight, "harmless": 1.5}
            self._send(preferences=preferences, max_tokens=5, guidance={"report": "summary"}, seed=self._turn)
        self._send(n=2, max_tokens=3)
        self._end_half_way()
        self._send(max_tokens="many")  # 400
        self._send({"authorization": "Bearer sk-nobody"}, max_tokens=1)  # 401
        self._send(model="another")  # 404
        self._send(user="x" * MAX_BODY)  # 413

    def _send(self, headers: dict[str, str] | None = None, **fields: Any) -> None:
        """One chat that does not stream."""
        response = self._http.post("/v1/chat/completions", json=self._body(**fields), headers=headers)
        if response.status_code != 200:
            self.failures[str(response.status_code)] += 1
            return
        body = response.json()
        self._count(body["usage"], [choice["finish_reason"] for choice in body["choices"]])

    def _end_half_way(self) -> None:
        """A stream that is ended by DELETE; while it runs, three more choices find no place: 429."""
        path, fields = "/v1/chat/completions", {"stream": True, "stream_options": {"include_usage": True}}
        body = self._body(**fields, max_tokens=LONG, ignore_eos=True)
        with self._http.stream("POST", path, json=body) as response:
            lines = (
                line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")
            )
            id = json.loads(next(lines))["id"]
            self._send(n=3, max_tokens=4)
            assert self._http.delete(f"{path}/{id}").status_code == 200
            *_, usage = (chunk["usage"] for chunk in map(json.loads, takewhile(DONE.__ne__, lines)))
        assert usage["completion_tokens"] < LONG
        self._count(usage, ["abort"])

    def _body(self, **fields: Any) -> dict[str, Any]:
        messages = [{"role": "system", "content": WORDS}, {"role": "user", "content": f"and {self._turn}?"}]
        return {"model": "tiny", "messages": messages, **fields}

    def _count(self, usage: dict[str, Any], reasons: list[str]) -> None:
        self.requests += 1
        self.prompt += usage["prompt_tokens"]
        self.generated += usage["completion_tokens"]
        self.reasons.update(reasons)


@dataclass
class Prometheus:
    """A Prometheus that listens."""

    url: str

    def ask(self, route: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        answer = httpx.get(f"{self.url}/api/v1/{route}", params=parameters, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression has now: ``metric`` is their labels, ``value`` their [time, text]."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def total(self, expression: str) -> float:
        """The only value of an expression."""
        (series,) = self.query(expression)
        return float(series["value"][1])


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, timeout=10).status_code == 200
    return False


@contextlib.contextmanager
def running(*command: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended when it is not needed any more."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="module")
def server(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of ``genarm serve`` with keys: a base, two rewards, places for three answers, and nobody may wait."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "keys").write_text(f"{KEY}\n")
    declared = {
        "model": "tiny",
        "base": {
            "model": str(make_checkpoint("llama", "watched-base", seed=1, max_position_embeddings=4096))
        },
        "rewards": [
            {
                "name": name,
                "model": str(
                    make_checkpoint("llama", f"watched-{name}", seed=seed, max_position_embeddings=4096)
                ),
                "default": 0.5,
            }
            for seed, name in enumerate(("helpful", "harmless"), 2)
        ],
        "threads": 1,
        "engine": {"max_sequences": 3, "prefill_chunk": 16},
        "http": {"api_key_file": str(folder / "keys"), "max_queue": 0, "max_body_bytes": MAX_BODY},
    }
    (folder / "deployment.yaml").write_text(json.dumps(declared))
    log = folder / "log"
    flags = ("--config", str(folder / "deployment.yaml"), "--port", "0")
    with running(sys.executable, "-m", "server.cli", "serve", *flags, log=log) as process:
        until(lambda: "http://" in log.read_text() or process.poll() is not None)
        (url, *_) = re.findall(r"http://[\d.:]+", log.read_text()) or [""]
        assert url, log.read_text()
        until(lambda: answers(f"{url}/ready") or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield url


@pytest.fixture(scope="module")
def prometheus(
    server: str, root: Path, tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Debian's Prometheus on the configuration of deploy/, but for where the server is, its key, and how often."""
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copy(root / "deploy" / "prometheus" / "alerts.yml", folder)
    (folder / "key").write_text(KEY)
    declared = yaml.safe_load((root / "deploy" / "prometheus" / "prometheus-with-key.yml").read_text())
    declared["global"] = {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": "1s"}
    (scrape,) = declared["scrape_configs"]
    scrape["authorization"]["credentials_file"] = str(folder / "key")
    # What discovery in a cluster would add, for the query of the adapter.
    labels = {"namespace": "genarm", "pod": "genarm-0"}
    scrape["static_configs"] = [{"targets": [server.removeprefix("http://")], "labels": labels}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(declared))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = (f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}")
    log = folder / "log"
    with running(tool("prometheus"), *flags, f"--web.listen-address={address}", log=log) as process:
        until(lambda: answers(f"http://{address}/-/ready") or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        reads = Prometheus(f"http://{address}")
        until(lambda: reads.query("up == 1"))
        yield reads


@pytest.fixture(scope="module")
def client(server: str, prometheus: Prometheus) -> Iterator[Client]:
    """A client whose traffic goes on while the tests ask, and that was heard of in several scrapes already."""
    sender, stop = Client(server), threading.Event()

    def send() -> None:
        while not stop.is_set():
            sender.turn()

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    moved = f"increase(genarm_request_failure_total[{WINDOW}]) > 0"

    def heard() -> bool:
        # What the test before has sent may still be in the window.
        return sender.generated > 0 and len(prometheus.query(moved)) >= len(REFUSED)

    until(lambda: heard() or not thread.is_alive(), 60)
    assert thread.is_alive()
    yield sender
    stop.set()
    thread.join(60)
    sender.close()


def dashboard() -> dict[str, Any]:
    path = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards" / "genarm.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def as_grafana_sends(expression: str) -> str:
    """With everything chosen in the variables."""
    expression = expression.replace("$__rate_interval", WINDOW)
    return re.sub(r"\$(model|instance)\b", ".*", expression)


TARGETS = [
    pytest.param(target, id=f"{panel['id']}-{panel['title']}-{target['refId']}".replace(" ", "_"))
    for panel in dashboard()["panels"]
    for target in panel.get("targets", ())
]


def test_prometheus_counts_what_a_client_counts(prometheus: Prometheus, server: str) -> None:
    """Tokens, ends, refusals and times told, while nobody else asks: no test before this one has started the traffic."""
    before, sender = _totals(prometheus), Client(server)
    for _ in range(5):
        sender.turn()
    sender.close()
    after = _totals(prometheus)
    assert sender.failures == dict.fromkeys(REFUSED, 5)
    assert sender.reasons["abort"] == 5
    assert sender.requests == 25
    choices = sender.reasons.total()
    assert {name: after[name] - before.get(name, 0) for name in after} == {
        "prompt": sender.prompt,
        "generated": sender.generated,
        **sender.reasons,
        **sender.failures,
        # A time for each request that was let in, and for each token of a choice but its first.
        "queued": sender.requests,
        "first": sender.requests,
        "whole": sender.requests,
        "between": sender.generated - choices,
    }


def _totals(prometheus: Prometheus) -> dict[str, float]:
    """What Prometheus has been told in all, when it has looked again."""
    time.sleep(3 * SCRAPE_SECONDS)
    names = {
        "prompt": "prompt_tokens_total",
        "generated": "generation_tokens_total",
        "queued": "request_queue_time_seconds_count",
        "first": "time_to_first_token_seconds_count",
        "whole": "e2e_request_latency_seconds_count",
        "between": "inter_token_latency_seconds_count",
    }
    found = {name: prometheus.total(f"genarm_{metric}") for name, metric in names.items()}
    for metric, label in (("request_success", "finished_reason"), ("request_failure", "status")):
        for series in prometheus.query(f"genarm_{metric}_total"):
            found[series["metric"][label]] = float(series["value"][1])
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_every_query_of_the_dashboard_has_something_to_draw(
    target: dict[str, Any], prometheus: Prometheus, client: Client
) -> None:
    assert client.generated > 0
    expression = as_grafana_sends(target["expr"])
    found = prometheus.query(expression)
    assert found, expression
    assert all(math.isfinite(float(series["value"][1])) for series in found), found
    for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
        assert all(series["metric"].get(label) for series in found), label
    now = time.time()
    drawn = prometheus.ask("query_range", query=expression, start=f"{now - 5}", end=f"{now}", step="1")
    assert drawn["result"], expression


def test_every_variable_of_the_dashboard_has_values(
    prometheus: Prometheus, client: Client, server: str
) -> None:
    assert client.generated > 0
    values = {}
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            found = prometheus.ask("series", **{"match[]": as_grafana_sends(series)})
            values[variable["name"]] = {one[label] for one in found}
    assert values == {"model": {"tiny"}, "instance": {server.removeprefix("http://")}}


def test_every_alert_is_evaluated_and_silent(prometheus: Prometheus, client: Client) -> None:
    assert client.generated > 0
    (group,) = prometheus.ask("rules")["groups"]
    until(lambda: all(rule["health"] == "ok" for rule in prometheus.ask("rules")["groups"][0]["rules"]), 30)
    rules = prometheus.ask("rules")["groups"][0]["rules"]
    assert len(rules) == len(group["rules"]) > 0
    for rule in rules:
        assert not rule.get("lastError"), rule
        assert rule["state"] != "firing", rule


def test_the_adapter_finds_the_queue_of_each_pod(root: Path, prometheus: Prometheus, client: Client) -> None:
    assert client.generated > 0
    values = root / "deploy" / "kubernetes" / "monitoring" / "adapter-values.yaml"
    (rule,) = yaml.safe_load(values.read_text(encoding="utf-8"))["rules"]["custom"]
    (series,) = prometheus.ask("series", **{"match[]": rule["seriesQuery"]})
    filled = {
        "Series": series["__name__"],
        "LabelMatchers": 'namespace="genarm",pod="genarm-0"',
        "GroupBy": "pod",
    }
    expression = re.sub(r"<<\.(\w+)>>", lambda match: filled[match[1]], rule["metricsQuery"])
    (found,) = prometheus.query(expression)
    assert found["metric"] == {"pod": "genarm-0"}
    assert float(found["value"][1]) >= 0
