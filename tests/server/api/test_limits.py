"""What a deployment lets in: how long, how much at once and from whom, how slowly it may be read."""

import asyncio
import contextlib
import json
import logging
import resource
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI, Response

from server.access import Caller
from server.api import connection
from server.api.plan import _check_choices
from server.errors import InvalidRequest


def error(response: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = response.json()["error"]
    return found


def test_prompts_and_answers_are_no_longer_than_the_deployment_says(scripted: Callable[..., Any]) -> None:
    with (
        scripted(http={"max_prompt_tokens": 20, "max_output_tokens": 8}) as server,
        server.client() as client,
    ):
        server.engine.free()
        assert server.chat().json()["usage"]["completion_tokens"] == 8
        assert server.complete("a b", max_tokens=8).status_code == 200
        for field in ("max_tokens", "max_completion_tokens"):
            refused = server.chat(**{field: 9})
            assert (refused.status_code, error(refused)["param"]) == (400, field)
            assert "larger than the 8 tokens" in error(refused)["message"]
        response = client.post("/v1/responses", json={"model": "tiny", "input": "hi", "max_output_tokens": 9})
        assert (response.status_code, error(response)["param"]) == (400, "max_output_tokens")
        refused = server.complete([5] * 21, max_tokens=1)
        assert (refused.status_code, error(refused)["param"]) == (400, "prompt")
        assert error(refused)["code"] == "context_length_exceeded"
        assert "at most 20 tokens; the prompt here are 21" in error(refused)["message"]
        assert server.complete([5] * 20, max_tokens=1).status_code == 200
        assert server.serving.dispatcher.admitted == 0


def test_a_key_asks_for_no_more_choices_than_it_may_have_under_way(deployment: Any) -> None:
    server: Any = SimpleNamespace(deployment=deployment, dispatcher=SimpleNamespace(capacity=10))
    _check_choices(1, 2, 1, "n", Caller(max_concurrent=2), server)
    with pytest.raises(InvalidRequest, match="This key makes at most 2 choices"):
        _check_choices(1, 3, 1, "n", Caller(max_concurrent=2), server)
    with pytest.raises(InvalidRequest, match="This deployment makes at most 10 choices"):
        _check_choices(1, 11, 1, "n", Caller(max_concurrent=20), server)


def test_one_key_leaves_places_to_another(scripted: Callable[..., Any], until: Any) -> None:
    with (
        scripted(keys=["flood", "quiet"], engine={"max_sequences": 1}, http={"max_queue": 3}) as server,
        server.client(authorization="Bearer flood") as flood,
        server.client(authorization="Bearer quiet") as quiet,
        ThreadPoolExecutor(4) as pool,
    ):
        body = server.body(max_tokens=2)
        running = [pool.submit(flood.post, "/v1/chat/completions", json=body) for _ in range(3)]
        until(lambda: server.serving.dispatcher.admitted == 3)
        refused = flood.post("/v1/chat/completions", json=body)
        assert (refused.status_code, error(refused)["code"]) == (429, "queue_full")
        assert refused.headers["retry-after"]
        running.append(pool.submit(quiet.post, "/v1/chat/completions", json=body))
        until(lambda: server.serving.dispatcher.admitted == 4)
        until(lambda: len(server.engine.requests) == 4)
        assert len({request.owner for request in server.engine.requests.values()}) == 2
        server.engine.free()
        assert [one.result().status_code for one in running] == [200] * 4


def test_tokens_that_are_let_in_are_bounded_and_come_back(scripted: Callable[..., Any], until: Any) -> None:
    with scripted(http={"max_queue_tokens": 30}) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.complete, [5] * 10, max_tokens=10)
        until(lambda: len(server.engine.requests) == 1)
        refused = server.complete([5] * 5, max_tokens=6)
        assert (refused.status_code, error(refused)["code"]) == (429, "queue_full")
        impossible = server.complete([5] * 25, max_tokens=6)
        assert (impossible.status_code, error(impossible)["param"]) == (400, "max_tokens")
        server.engine.free()
        assert first.result().status_code == 200
        assert server.complete([5] * 5, max_tokens=6).status_code == 200
        assert server.serving.dispatcher.admitted == 0


def test_who_waits_too_long_for_a_first_token_is_told_to_come_again(scripted: Callable[..., Any]) -> None:
    with scripted(http={"queue_seconds": 0.4}) as server, server.client() as client:
        refused = server.chat(max_tokens=3)
        assert (refused.status_code, error(refused)["code"]) == (503, "queue_timeout")
        assert refused.headers["retry-after"]
        with server.open(client, max_tokens=3) as events:
            told = list(events)
        assert "[DONE]" not in told
        assert told[-1]["error"]["code"] == "queue_timeout"
        assert len(server.engine.aborted) == 2
        assert server.serving.dispatcher.admitted == 0
        server.engine.free()
        assert server.chat(max_tokens=3).status_code == 200


def test_who_is_being_read_does_not_wait_however_slow_that_is(
    scripted: Callable[..., Any], until: Any
) -> None:
    with scripted(http={"queue_seconds": 0.2}) as server, ThreadPoolExecutor(2) as pool:
        read = pool.submit(server.chat, max_tokens=3, n=2)
        until(lambda: len(server.engine.requests) == 2)
        server.engine.reading.append(list(server.engine.requests)[1])
        queued = pool.submit(server.chat, max_tokens=3)
        assert queued.result().status_code == 503
        time.sleep(0.3)
        server.engine.free()
        assert read.result().status_code == 200


def test_waiting_to_be_tokenized_is_waiting(scripted: Callable[..., Any]) -> None:
    gate = threading.Event()
    with scripted(http={"queue_seconds": 0.1}) as server:
        server.engine.free()
        server.serving.tokenizers._thread.submit(gate.wait)
        refused = server.chat(max_tokens=3)
        gate.set()
        assert (refused.status_code, error(refused)["code"]) == (503, "queue_timeout")
        assert server.serving.dispatcher.admitted == 0
        assert server.chat(max_tokens=3).status_code == 200


def test_an_answer_that_takes_too_long_is_ended_with_one_error(scripted: Callable[..., Any]) -> None:
    with scripted(http={"queue_seconds": 0.5, "total_seconds": 1.0}) as server, server.client() as client:
        server.engine.allow(2)
        refused = server.chat(max_tokens=3)
        assert (refused.status_code, error(refused)["code"]) == (504, "timeout")
        with server.open(client, max_tokens=3) as events:
            told = list(events)
        assert [("error" in event) for event in told] == [False, False, False, True]
        assert told[-1]["error"]["code"] == "timeout"
        assert len(server.engine.aborted) == 2
        assert (
            'genarm_request_failure_total{model_name="tiny",status="504"} 2.0' in client.get("/metrics").text
        )


SEARCHED = {
    "preferences": {"helpful": 1.0, "harmless": 0.5},
    "guidance": {"method": "best_of_n", "n_candidates": 3},
}


@pytest.mark.parametrize("fields", [{"n": 3}, SEARCHED, {**SEARCHED, "n": 2}])
def test_all_choices_and_searches_of_a_late_request_are_given_back_at_once(
    scripted: Callable[..., Any], fields: dict[str, Any]
) -> None:
    with scripted(http={"total_seconds": 0.3}) as server, server.client() as client:
        server.engine.allow(2)
        refused = server.chat(max_tokens=5, **fields)
        assert (refused.status_code, error(refused)["code"]) == (504, "timeout")
        with server.open(client, max_tokens=5, **fields) as events:
            told = list(events)
        assert [event["error"]["code"] for event in told if "error" in event] == ["timeout"]
        assert "error" in told[-1]
        assert server.engine.requests
        assert set(server.engine.aborted) == set(server.engine.requests)
        assert server.serving.dispatcher.admitted == 0


def test_openais_client_raises_what_ends_a_late_stream(scripted: Callable[..., Any]) -> None:
    with (
        scripted(http={"total_seconds": 0.3}) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        server.engine.allow(2)
        said: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        with pytest.raises(openai.InternalServerError) as whole:
            client.chat.completions.create(**said)
        assert (whole.value.status_code, whole.value.code) == (504, "timeout")
        with pytest.raises(openai.APIError, match=r"longer than 0\.3 s") as streamed:
            list(client.chat.completions.create(**said, stream=True))
        assert streamed.value.code == "timeout"


def test_a_large_body_holds_nobody_up(scripted: Callable[..., Any], until: Any) -> None:
    gate = threading.Event()
    with (
        scripted(keys=["flood", "quiet"]) as server,
        ThreadPoolExecutor(4) as pool,
        server.client(authorization="Bearer flood") as flood,
        server.client(authorization="Bearer quiet") as quiet,
    ):
        server.engine.free()
        bodies = server.serving.bodies._thread
        bodies.submit(gate.wait, "gate")
        large = {"model": "tiny", "prompt": [5] * 100_000, "max_tokens": 1}
        answers = []
        for client in (flood, flood, flood, quiet):
            answers.append(pool.submit(client.post, "/v1/completions", json=large))
            waiting = len(answers)
            until(lambda waiting=waiting: sum(map(len, bodies._lanes.values())) == waiting)
        assert quiet.post("/v1/chat/completions", json=server.body(max_tokens=2)).status_code == 200
        assert list(map(len, bodies._lanes.values())) == [3, 1]  # read in turn
        gate.set()
        for answer in answers:
            assert error(answer.result())["code"] == "context_length_exceeded"


def test_waiting_until_a_large_body_is_read_counts(scripted: Callable[..., Any]) -> None:
    gate = threading.Event()
    with (
        scripted(http={"queue_seconds": 0.2}) as server,
        ThreadPoolExecutor(1) as pool,
        server.client() as client,
    ):
        server.engine.free()
        server.serving.bodies._thread.submit(gate.wait, "gate")
        said = json.dumps(server.body(max_tokens=1)) + " " * (1 << 17)
        kind = {"content-type": "application/json"}
        answer = pool.submit(client.post, "/v1/chat/completions", content=said, headers=kind)
        try:
            while not server.serving.bodies._thread._lanes:
                time.sleep(0.005)
            time.sleep(0.3)
        finally:
            gate.set()
        assert (answer.result().status_code, error(answer.result())["code"]) == (503, "queue_timeout")


def test_a_full_queue_refuses_a_thousand_at_once_without_delay(scripted: Callable[..., Any]) -> None:
    async def ask(port: int, body: bytes) -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
        writer.write(head.encode() + b"content-type: application/json\r\n\r\n" + body)
        head_read = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        return head_read.split(b"\r\n")[0], head_read.lower()

    async def ask_all(port: int, body: bytes) -> list[tuple[bytes, bytes]]:
        return await asyncio.gather(*(ask(port, body) for _ in range(1000)))

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 3000:
        pytest.skip("too few files may be open here")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(3000, before[0]), most))
    try:
        with (
            scripted(engine={"max_sequences": 1}, http={"max_queue": 1}) as server,
            ThreadPoolExecutor(1) as pool,
        ):
            running = pool.submit(server.chat, max_tokens=2, n=2)
            while server.serving.dispatcher.admitted < 2:
                time.sleep(0.005)
            told = asyncio.run(ask_all(httpx.URL(server.url).port or 0, json.dumps(server.body()).encode()))
            assert {status for status, _ in told} == {b"HTTP/1.1 429 Too Many Requests"}
            assert all(b"retry-after: 1" in head for _, head in told)
            assert server.serving.dispatcher.admitted == 2  # who was let in is none of theirs
            server.engine.free()
            assert running.result().status_code == 200
            assert server.serving.dispatcher.admitted == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Sleeper:
    """A client that asks for a stream and reads nothing of it, with buffers as small as they get."""

    def __init__(self, server: Any, route: str = "/v1/chat/completions", **fields: Any) -> None:
        server.server.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(("127.0.0.1", httpx.URL(server.url).port or 0))
        asked = server.body(stream=True, **fields)
        if route != "/v1/chat/completions":
            del asked["messages"]
        body = json.dumps(asked).encode()
        head = f"POST {route} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
        self.socket.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body)

    def read(self) -> bytes:
        """All there is to read, now that the connection is closed."""
        self.socket.settimeout(10)
        read = b""
        try:
            while part := self.socket.recv(65536):
                read += part
        except ConnectionResetError:
            pass
        return read

    def close(self) -> None:
        self.socket.close()


@pytest.mark.parametrize(
    ("http", "tokens"),
    [({"max_unread_bytes": 65536, "send_seconds": 60.0}, 230), ({"send_seconds": 0.2}, 60)],
)
def test_a_stream_that_nobody_reads_is_ended_and_its_connection_closed(
    scripted: Callable[..., Any],
    until: Any,
    caplog: pytest.LogCaptureFixture,
    http: dict[str, Any],
    tokens: int,
) -> None:
    with (
        scripted(http=http) as server,
        ThreadPoolExecutor(1) as pool,
        caplog.at_level(logging.INFO, "genarm.requests"),
        contextlib.ExitStack() as stack,
    ):
        reader = pool.submit(server.chat, max_tokens=200)
        sleeper = stack.enter_context(contextlib.closing(Sleeper(server, n=16, max_tokens=240)))
        until(lambda: len(server.engine.requests) == 17)
        for _ in range(tokens // 10):
            server.engine.allow(10)
            time.sleep(0.02)
        until(lambda: len(server.engine.aborted) == 16)
        until(lambda: server.serving.dispatcher.admitted <= 1)
        server.engine.free()
        assert reader.result().json()["usage"]["completion_tokens"] == 200
        read = sleeper.read()
        assert read.startswith(b"HTTP/1.1 200")
        assert b"[DONE]" not in read
        with server.client() as client:
            assert 'status="408"} 1.0' in client.get("/metrics").text
        logged = [json.loads(record.message) for record in caplog.records if "slow_reader" in record.message]
        assert [(one["status"], one["code"]) for one in logged] == [(408, "slow_reader")]


@pytest.mark.parametrize(
    ("route", "fields"),
    [
        ("/v1/completions", {"prompt": ["a b"] * 2, "n": 8, "max_tokens": 240}),
        ("/v1/responses", {"input": "hi", "max_output_tokens": 240}),
        ("/v1/chat/completions", {"n": 8, "max_tokens": 240, "logprobs": True}),
    ],
)
def test_whatever_is_streamed_is_bounded_changed_or_not(
    scripted: Callable[..., Any], until: Any, route: str, fields: dict[str, Any]
) -> None:
    with (
        scripted(http={"send_seconds": 0.3}) as server,
        server.client() as client,
        contextlib.ExitStack() as stack,
    ):
        sleeper = stack.enter_context(contextlib.closing(Sleeper(server, route, **fields)))
        until(lambda: server.engine.requests)
        if route.endswith("chat/completions"):
            (id,) = server.serving.dispatcher._running
            changed = client.patch(f"/v1/chat/completions/{id}", json={"preferences": {"helpful": 0.3}})
            assert changed.status_code == 200
        until(lambda: [server.engine.allow(4), server.serving.dispatcher.admitted][1] == 0)
        until(lambda: len(server.server.server_state.connections) <= 1)  # the other is ours
        read = sleeper.read()
        assert b"[DONE]" not in read
        assert b"response.completed" not in read
        server.engine.free()
        for _ in range(2):  # the connection of who reads is used again
            assert client.post("/v1/chat/completions", json=server.body(max_tokens=2)).status_code == 200


def test_who_reads_a_byte_now_and_then_is_left_too(scripted: Callable[..., Any], until: Any) -> None:
    with scripted(http={"send_seconds": 0.3}) as server, contextlib.ExitStack() as stack:
        sleeper = stack.enter_context(contextlib.closing(Sleeper(server, n=16, max_tokens=240)))
        until(lambda: len(server.engine.requests) == 16)

        def trickle() -> bool:
            server.engine.allow(4)
            with contextlib.suppress(ConnectionResetError):
                sleeper.socket.recv(1)
            return bool(server.serving.dispatcher.admitted == 0)

        until(trickle)
        assert len(server.engine.aborted) == 16


def test_who_reads_nothing_of_a_whole_answer_is_left_too(scripted: Callable[..., Any], until: Any) -> None:
    with scripted(http={"send_seconds": 0.3}) as server, contextlib.ExitStack() as stack:
        server.engine.free()
        sleeper = stack.enter_context(contextlib.closing(Sleeper(server, n=8, max_tokens=200)))
        until(lambda: len(server.engine.finished) == 8)
        until(lambda: not server.server.server_state.connections)
        assert b"[DONE]" not in sleeper.read()
        assert server.engine.aborted == []


BIG = 32 << 20  # more than the sockets hold
BIG_ANSWER = b"GET /big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def give_megabytes(app: FastAPI) -> None:
    @app.get("/big")
    def big() -> Response:
        return Response(b"x" * BIG)


def test_who_reads_nothing_of_an_answer_that_is_no_stream_is_left_with_a_warning(
    scripted: Callable[..., Any],
    until: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "SPARE_SECONDS", 0.1)
    caplog.set_level(logging.INFO)
    with (
        scripted(http={"send_seconds": 0.3}, prepare=give_megabytes) as server,
        socket.create_connection(("127.0.0.1", httpx.URL(server.url).port or 0), timeout=10) as client,
    ):
        client.sendall(BIG_ANSWER)
        until(lambda: server.server.server_state.connections)
        until(lambda: not server.server.server_state.connections)
    assert [record.levelname for record in caplog.records if "took nothing of its" in record.message] == [
        "WARNING"
    ]
    logged = [json.loads(record.message) for record in caplog.records if record.name == "genarm.requests"]
    assert [line["status"] for line in logged if line["route"] == "GET /big"] == [200]


def test_who_reads_a_large_answer_slowly_gets_all_of_it(
    scripted: Callable[..., Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SPARE_SECONDS", 0.1)
    with (
        scripted(http={"send_seconds": 0.3}, prepare=give_megabytes) as server,
        socket.create_connection(("127.0.0.1", httpx.URL(server.url).port or 0), timeout=10) as client,
    ):
        client.sendall(BIG_ANSWER)
        read, began = 0, time.monotonic()
        while part := client.recv(1 << 20):
            read += len(part)
            time.sleep(0.03)
        assert read > BIG
        assert time.monotonic() - began > 0.5
    assert "took nothing of its" not in caplog.text


def test_who_reads_is_not_left_however_fast_tokens_come(scripted: Callable[..., Any]) -> None:
    with scripted(http={"max_unread_bytes": 1 << 20}) as server:
        server.engine.free()
        chunks = server.stream(n=16, max_tokens=200)
        assert sum(1 for chunk in chunks if chunk["choices"][0]["finish_reason"]) == 16
