"""Traces as a collector gets them: a collector in the test takes what is sent over HTTP and reads it as OTLP."""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from arm_models.errors import UserError
from server import serve_command, tracing
from server.app import create_app
from server.config import Deployment
from server.tracing import Stretch, Trace, Tracing

CALLER = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "x=1"}


class Collector:
    """Takes traces on a free port of loopback. ``spans``: those that came; ``slow``: seconds it takes to answer."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.paths: list[str] = []
        self.resource: dict[str, str] = {}
        self.slow = 0.0
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.take(self.path, self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def take(self, path: str, body: bytes) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        time.sleep(self.slow)
        self.paths.append(path)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = {one.key: one.value.string_value for one in group.resource.attributes}
            self.spans += [span for scope in group.scope_spans for span in scope.spans]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def request(**fields: Any) -> Trace:
    now = time.monotonic()
    parts = (Stretch("queue", now - 3, now - 2), Stretch("decode", now - 2, now - 1))
    return Trace(Stretch("POST /v1/x", now - 4, now - 1), parts, {"model": "m", "tokens": 3}, **fields)


def sent(url: str, trace: Trace, headers: dict[str, str]) -> dict[str, str]:
    tracer = Tracing(url)
    ids = tracer.record(trace, headers)
    tracer.stop()
    return ids


def test_a_request_is_a_span_with_its_parts_below_it(collector: Collector) -> None:
    before = time.time_ns()
    ids = sent(collector.url, request(), {})
    assert collector.paths == ["/v1/traces"]
    assert collector.resource["service.name"] == "genarm"
    assert collector.resource["service.version"]
    spans = {span.name: span for span in collector.spans}
    assert set(spans) == {"POST /v1/x", "queue", "decode"}
    whole = spans["POST /v1/x"]
    assert (whole.trace_id.hex(), whole.span_id.hex()) == (ids["trace_id"], ids["span_id"])
    assert not whole.parent_span_id
    assert {one.key for one in whole.attributes} == {"model", "tokens"}
    for name, seconds in (("POST /v1/x", 3), ("queue", 1), ("decode", 1)):
        span = spans[name]
        assert span.trace_id == whole.trace_id
        assert (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9 == pytest.approx(seconds, abs=0.01)
        if span is not whole:
            assert span.parent_span_id == whole.span_id
    assert (before - whole.start_time_unix_nano) / 1e9 == pytest.approx(4, abs=0.5)


def test_a_callers_trace_goes_on(collector: Collector) -> None:
    ids = sent(collector.url, request(), CALLER)
    assert ids["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    (whole,) = (span for span in collector.spans if span.name == "POST /v1/x")
    assert whole.parent_span_id.hex() == "b7ad6b7169203331"
    assert whole.trace_state == "x=1"


def test_a_caller_who_records_nothing_is_heeded(collector: Collector) -> None:
    ids = sent(collector.url, request(), {"traceparent": CALLER["traceparent"][:-1] + "0"})
    assert ids["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert collector.spans == []


@pytest.mark.parametrize("broken", ["", "nonsense", "00-0-0-01", f"00-{'0' * 32}-b7ad6b7169203331-01"])
def test_a_broken_traceparent_begins_a_trace_of_its_own(collector: Collector, broken: str) -> None:
    ids = sent(collector.url, request(), {"traceparent": broken})
    assert int(ids["trace_id"], 16)
    assert len(collector.spans) == 3
    assert not any(span.parent_span_id for span in collector.spans if span.name == "POST /v1/x")


@pytest.mark.parametrize(("failed", "status"), [(True, 2), (False, 0)])
def test_only_what_the_server_is_to_blame_for_is_an_error(
    collector: Collector, failed: bool, status: int
) -> None:
    sent(f"{collector.url}/v1/traces", request(failed=failed), {})  # the whole URL is as good as the address
    assert collector.paths == ["/v1/traces"]
    (whole,) = (span for span in collector.spans if span.name == "POST /v1/x")
    assert whole.status.code == status


def test_a_collector_that_hangs_does_not_hold_up_the_end(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "LAST_SECONDS", 0.2)
    collector.slow = 2.0
    began = time.monotonic()
    sent(collector.url, request(), {})
    assert time.monotonic() - began < 1.5


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(UserError, match=r"otlp_endpoint: .*pip install 'genarm\[otel\]'"):
        Tracing("http://localhost:4318")


def test_without_an_endpoint_nothing_is_imported() -> None:
    code = "import sys, server.tracing; print([name for name in sys.modules if 'opentelemetry' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_served_request_has_the_parts_of_its_life_and_its_line_the_ids(
    scripted: Callable[..., Any], collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "genarm.requests")
    with scripted(otlp_endpoint=collector.url) as server:
        server.engine.free()
        with server.client(**CALLER) as client, server.open(client, max_tokens=3) as events:
            assert list(events)[-1] == "[DONE]"
        with server.client() as client:
            client.get("/nope")
            client.get("/health")
    spans = {span.name: span for span in collector.spans}  # the end of a server sends what is left
    whole = spans["POST /v1/chat/completions"]
    parts = [spans[name] for name in ("tokenize", "queue", "prefill", "decode")]
    assert len(collector.spans) == 1 + len(parts) + 1
    assert all(part.parent_span_id == whole.span_id for part in parts)
    edges = [one for part in parts for one in (part.start_time_unix_nano, part.end_time_unix_nano)]
    assert edges == sorted(edges)
    assert whole.start_time_unix_nano <= edges[0]
    assert edges[-1] <= whole.end_time_unix_nano
    told = {one.key: one.value for one in whole.attributes}
    assert told["gen_ai.usage.output_tokens"].int_value == 3
    assert told["http.response.status_code"].int_value == 200
    assert told["genarm.preference.helpful"].double_value == 1.0
    refused = {one.key: one.value for one in spans["GET"].attributes}
    assert refused["error.type"].string_value == "unknown_url"
    lines = [json.loads(one.getMessage()) for one in caplog.records if one.name == "genarm.requests"]
    assert [line["trace_id"] for line in lines] == [span.trace_id.hex() for span in (whole, spans["GET"])]
    assert lines[0]["trace_id"] in CALLER["traceparent"]
    assert lines[0]["span_id"] == whole.span_id.hex()


def deployment(*flags: str) -> Deployment:
    parser = argparse.ArgumentParser()
    serve_command.add_arguments(parser)
    return serve_command.deployment_from(parser.parse_args(["--base", "b", *flags]))


def test_the_flag_says_where_traces_go() -> None:
    assert deployment().otlp_endpoint is None
    assert deployment("--otlp-endpoint", "http://localhost:4318").otlp_endpoint == "http://localhost:4318"
    for wrong in ("localhost:4318", "grpc://x", "http://", "http:///v1/traces", ""):
        with pytest.raises(UserError, match="otlp_endpoint"):
            deployment("--otlp-endpoint", wrong)


def test_a_server_that_cannot_trace_does_not_begin_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(UserError, match="otlp_endpoint"):
        create_app(deployment("--otlp-endpoint", "http://localhost:4318"))
