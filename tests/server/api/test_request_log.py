"""One JSON line for every request, whatever becomes of it; and its span."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from server.api.request_log import LogRequests, RequestLog
from server.metrics import Metrics

ALWAYS = {"time", "request_id", "key", "route", "status", "code", "total_s"}
ANSWERED = {
    *("id", "model", "method", "preferences", "beta", "changes", "streamed", "choices", "prompt_tokens"),
    *("cached_tokens", "completion_tokens", "queue_s", "ttft_s", "per_token_s", "kl", "finish_reason"),
}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture, until: Any) -> Callable[[int], list[dict[str, Any]]]:
    """``lines(n)``: the lines there are, once there are ``n``; more are a failure."""
    caplog.set_level(logging.INFO, "genarm.requests")

    def read(count: int) -> list[dict[str, Any]]:
        def there() -> list[logging.LogRecord]:
            return [record for record in caplog.records if record.name == "genarm.requests"]

        until(lambda: len(there()) >= count)
        found = [json.loads(record.getMessage()) for record in there()]
        caplog.clear()
        assert len(found) == count
        assert all(set(line) >= ALWAYS for line in found)
        return found

    return read


def test_an_answer_s_line_has_its_figures(scripted: Callable[..., Any], lines: Any) -> None:
    with scripted("spoken ") as server:
        server.engine.free()
        asked = {"preferences": {"helpful": 2}, "guidance": {"beta": 4.0, "report": "summary"}, "n": 2}
        response = server.chat(max_tokens=3, **asked)
        (line,) = lines(1)
    assert set(line) == ALWAYS | ANSWERED
    assert (line["status"], line["code"]) == (200, None)
    assert line["route"] == "POST /v1/chat/completions"
    assert (line["id"], line["request_id"]) == (response.json()["id"], response.headers["x-request-id"])
    assert (line["choices"], line["completion_tokens"]) == (2, 6)
    assert line["prompt_tokens"] == response.json()["usage"]["prompt_tokens"]
    assert line["preferences"] == {"helpful": 2.0, "harmless": 0.0}
    assert (line["beta"], line["kl"], line["queue_s"], line["finish_reason"]) == (4.0, 0.25, 0.5, "length")
    assert 0 <= line["ttft_s"] <= line["total_s"]
    assert 0 <= line["per_token_s"] <= line["total_s"]


def test_without_a_report_there_is_no_kl(scripted: Callable[..., Any], lines: Any) -> None:
    with scripted() as server:
        server.engine.free()
        server.chat(max_tokens=1)
        (line,) = lines(1)
    assert (line["kl"], line["per_token_s"]) == (None, None)


def test_every_refusal_has_a_line(scripted: Callable[..., Any], lines: Any, until: Any) -> None:
    limits = {"engine": {"max_sequences": 1}, "http": {"max_queue": 0, "max_body_bytes": 5000}}
    with scripted(keys=["right"], **limits) as server:

        def refused(method: str, path: str, **options: Any) -> httpx.Response:
            headers = {"authorization": "Bearer right", **options.pop("headers", {})}
            return httpx.request(method, f"{server.url}{path}", headers=headers, **options)

        chat = "/v1/chat/completions"
        big = {"content": b"x" * 6000, "headers": {"content-type": "application/json"}}
        asked: list[tuple[int, str | None, Any]] = [
            (401, "invalid_api_key", lambda: refused("GET", "/v1/models", headers={"authorization": ""})),
            (401, "invalid_api_key", lambda: refused("GET", "/metrics", headers={"authorization": ""})),
            (404, "unknown_url", lambda: refused("GET", "/nope")),
            (404, "model_not_found", lambda: refused("POST", chat, json={**server.body(), "model": "x"})),
            (404, "not_found", lambda: refused("DELETE", f"{chat}/somebody")),
            (405, "method_not_allowed", lambda: refused("PUT", chat)),
            (413, "request_too_large", lambda: refused("POST", chat, **big)),
            (415, "unsupported_media_type", lambda: refused("POST", chat, content=b"x")),
            (400, "unknown_field", lambda: refused("POST", chat, json={**server.body(), "x": 1})),
        ]
        for status, code, ask in asked:
            assert ask().status_code == status
            (line,) = lines(1)
            assert (line["status"], line["code"]) == (status, code)
            assert line["key"] == (None if status == 401 else "key-right")
            assert not set(line) & ANSWERED
        with (
            server.client(authorization="Bearer right") as client,
            server.open(client, max_tokens=1) as events,
        ):
            next(events)
            until(lambda: server.engine.requests)
            assert refused("POST", chat, json=server.body()).status_code == 429
            (line,) = lines(1)
            assert (line["status"], line["code"]) == (429, "queue_full")
            server.engine.free()
            list(events)
        (line,) = lines(1)
        assert line["status"] == 200


def test_one_who_leaves_and_one_who_cancels_are_aborts(scripted: Callable[..., Any], lines: Any) -> None:
    with scripted() as server:
        server.engine.allow(2)
        for streamed, status in ((True, 200), (False, 499)):
            with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=server.url, timeout=0.5) as client:
                client.post("/v1/chat/completions", json=server.body(stream=streamed))
            (line,) = lines(1)
            assert (line["status"], line["finish_reason"], line["completion_tokens"]) == (status, "abort", 2)
        with server.client() as client, server.open(client) as events:
            id = next(events)["id"]
            client.delete(f"/v1/chat/completions/{id}")
            assert list(events)[-1] == "[DONE]"
            assert "request_failure_total{" not in client.get("/metrics").text
        by_route = {line["route"].split()[0]: line for line in lines(2)}
        assert by_route["POST"]["finish_reason"] == "abort"
        assert by_route["DELETE"]["status"] == 200


def test_a_stream_that_fails_has_the_status_of_its_error(
    scripted: Callable[..., Any], lines: Any, until: Any
) -> None:
    with scripted() as server, server.client() as client, server.open(client, max_tokens=50) as events:
        until(lambda: server.engine.requests)
        server.engine.allow(1)
        server.engine.kill()
        assert "[DONE]" not in list(events)
        (line,) = lines(1)
        assert (line["status"], line["code"], line["finish_reason"]) == (503, "engine_dead", None)
        assert (
            'genarm_request_failure_total{model_name="tiny",status="503"} 1.0' in client.get("/metrics").text
        )


def test_probes_that_get_what_they_came_for_make_no_line(scripted: Callable[..., Any], lines: Any) -> None:
    with scripted() as server, server.client() as client:
        for path in ("/health", "/ready", "/metrics"):
            assert client.get(path).status_code == 200
        client.get("/v1/models")
        (line,) = lines(1)
        assert line["route"] == "GET /v1/models"
        assert "request_failure_total{" not in client.get("/metrics").text


def test_nothing_said_and_no_forged_line_gets_into_the_log(
    scripted: Callable[..., Any], caplog: pytest.LogCaptureFixture, lines: Any
) -> None:
    said = [{"role": "user", "content": "my secret words"}]
    with scripted("spoken ") as server, server.client() as client:
        server.engine.free()
        server.chat(messages=said, max_tokens=3)
        server.chat(messages=said, max_tokens=0)
        client.get("/%0a%7B%22status%22%3A200%7D%E2%80%A8" + "x" * 500)
        records = [record for record in caplog.records if record.name == "genarm.requests"]
        assert all("\n" not in record.getMessage() for record in records)
        assert all(word not in caplog.text for word in ("secret", "spoken"))
        assert all(len(line["route"]) < 210 and line["route"].isprintable() for line in lines(3))


def logged(app: Any, lines: Any, **changes: str) -> dict[str, Any]:
    """The line of one request to ``app``."""

    async def send(_: Any) -> None:
        """Nobody reads."""

    async def serve() -> None:
        scope = {"type": "http", "method": "GET", "path": "/x", "headers": [], **changes}
        await LogRequests(app, RequestLog(Metrics("tiny")))(scope, None, send)  # type: ignore[arg-type]

    with contextlib.suppress(ZeroDivisionError):
        asyncio.run(serve())
    line: dict[str, Any] = lines(1)[0]
    return line


@pytest.mark.parametrize(("field", "value"), [("method", "M" * 60_000), ("path", "/" + "é\x1b[2J" * 9_000)])
def test_no_verb_and_no_path_makes_a_long_line(lines: Any, field: str, value: str) -> None:
    async def app(_: Any, __: Any, send: Any) -> None:
        await begin(send)

    line = logged(app, lines, **{field: value})
    assert len(json.dumps(line)) < 2000


async def begin(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def test_the_line_names_the_key_by_its_name(lines: Any) -> None:
    async def app(scope: Any, _: Any, send: Any) -> None:
        scope["state"]["caller"] = SimpleNamespace(name="team-a", owner="0123")
        await begin(send)

    assert logged(app, lines)["key"] == "team-a"


def test_a_request_that_broke_off_is_no_success(lines: Any) -> None:
    async def app(_: Any, __: Any, send: Any) -> None:
        await begin(send)
        raise ZeroDivisionError

    assert logged(app, lines)["status"] == 500


def test_a_client_that_left_before_there_was_an_answer_is_499(lines: Any) -> None:
    async def app(*_: Any) -> None:
        """Answers nothing."""

    assert logged(app, lines)["status"] == 499
