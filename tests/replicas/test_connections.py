"""Connections through Serve's proxy: who reads slowly, sends without end or leaves takes nothing from others."""

import contextlib
import json
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server.replicas.doorway import SEND_SECONDS
from tests.replicas.cluster import Cluster, chat, streaming

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

PATH = "/v1/chat/completions"


def connected(cluster: Cluster, body: bytes, *headers: str, buffer: int | None = None) -> socket.socket:
    """A connection on which a chat was asked for; ``buffer``: bytes that it takes in without being read."""
    connection = socket.socket()
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", cluster.port))
    lines = (f"POST {PATH} HTTP/1.1", "host: a", f"authorization: Bearer {cluster.key}", *headers)
    connection.sendall("\r\n".join((*lines, "content-type: application/json", "", "")).encode() + body)
    return connection


class Still:
    """Somebody who asked for an answer far beyond what connections hold, and reads nothing of it."""

    def __init__(self, cluster: Cluster) -> None:
        long = {"max_tokens": 3900, "stream": True, "guidance": {"report": "tokens"}, "logprobs": True}
        body = json.dumps(chat("a slow reader", **long, top_logprobs=20)).encode()
        self.began = time.monotonic()
        self.connection = connected(cluster, body, f"content-length: {len(body)}", buffer=4096)
        assert self.connection.recv(12) == b"HTTP/1.1 200"


@pytest.fixture(scope="module")
def still(cluster: Cluster) -> Iterator[Still]:
    """There from the first test here to the last."""
    cluster.idle()
    one = Still(cluster)
    yield one
    one.connection.close()


def test_who_does_not_read_holds_nobody_up(cluster: Cluster, still: Still) -> None:
    began = time.monotonic()
    with cluster.client() as client:
        for number in range(6):
            client.post(PATH, json=chat(f"beside it {number}", max_tokens=8)).raise_for_status()
    assert time.monotonic() - began < 15
    cluster.idle()
    assert sum(cluster.samples("genarm_num_requests_waiting").values()) == 0
    assert _is_open(still.connection, cluster.port)


def _is_open(connection: socket.socket, port: int) -> bool:
    """Whether the server's side of it is: the kernel still holds what was written before, so its client cannot tell."""
    own = connection.getsockname()[1]
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    ends = [(line.split()[1][-4:], line.split()[2][-4:], line.split()[3]) for line in lines]
    return (f"{port:04X}", f"{own:04X}", "01") in ends


def test_a_long_stream_is_kept_open_by_comments_and_is_not_buffered(cluster: Cluster) -> None:
    """One is sent every 15 s, whatever else is. Bytes come as they are made, and proxies are told to leave them so."""
    comments, gaps = 0, []
    with cluster.client() as client:
        body = chat("kept open", max_tokens=3900, stream=True)
        with client.stream("POST", PATH, json=body) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["cache-control"] == "no-store"
            assert response.headers["x-accel-buffering"] == "no"
            assert "content-length" not in response.headers
            last = time.monotonic()
            began = last
            for line in response.iter_lines():
                now = time.monotonic()
                gaps.append(now - last)
                last = now
                comments += line.startswith(": keep-alive")
                if comments or now - began > 40:
                    break
        took = last - began
    assert comments == 1 or took < 16, "the answer was over before one was due"
    assert max(gaps) < 5
    cluster.idle()


@pytest.mark.parametrize(("is_known", "status"), [(True, 413), (False, 401)])
def test_a_body_without_end_is_refused_while_it_is_sent(
    cluster: Cluster, is_known: bool, status: int
) -> None:
    key = cluster.key if is_known else "nobody"
    lines = (f"POST {PATH} HTTP/1.1", "host: a", f"authorization: Bearer {key}", "transfer-encoding: chunked")
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with plain(cluster) as connection:
        connection.sendall("\r\n".join((*lines, "content-type: application/json", "", "")).encode())
        deadline = time.monotonic() + 30
        with contextlib.suppress(OSError):  # closed while we send: what it said is there all the same
            while not select.select([connection], [], [], 0)[0]:
                assert time.monotonic() < deadline
                connection.sendall(chunk)
        said = connection.recv(4096)
    assert said.startswith(f"HTTP/1.1 {status}".encode()), said
    with cluster.client() as client:
        client.post(PATH, json=chat(max_tokens=1)).raise_for_status()


def plain(cluster: Cluster) -> socket.socket:
    return socket.create_connection(("127.0.0.1", cluster.port), timeout=60)


def test_a_body_in_many_small_chunks_is_one_body(cluster: Cluster) -> None:
    body = json.dumps(chat("small chunks", max_tokens=2)).encode()
    with cluster.client() as client:
        answer = client.post(
            PATH,
            content=(body[at : at + 1] for at in range(len(body))),
            headers={"content-type": "application/json"},
        )
        whole = client.post(PATH, json=json.loads(body))
    assert answer.raise_for_status().json()["choices"] == whole.json()["choices"]


def test_two_lengths_are_refused(cluster: Cluster) -> None:
    """A proxy in front might go by the other one."""
    body = json.dumps(chat(max_tokens=1)).encode()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    with connected(cluster, chunked, f"content-length: {len(body)}", "transfer-encoding: chunked") as one:
        assert one.recv(4096).startswith(b"HTTP/1.1 400")


def test_requests_behind_each_other_on_one_connection_are_answered_in_their_order(cluster: Cluster) -> None:
    head = f"GET /v1/models/%s HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {cluster.key}\r\n%s\r\n"
    asked = (
        head % ("tiny", "") + head % ("nope", "") + head % ("tiny:kind", "connection: close\r\n")
    ).encode()
    with plain(cluster) as connection:
        connection.sendall(asked)
        said = b""
        while chunk := connection.recv(65536):
            said += chunk
    statuses = [part[:3] for part in said.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"404", b"200"]
    assert said.index(b'"tiny"') < said.index(b"model_not_found") < said.index(b'"tiny:kind"')


def test_there_are_no_websockets(cluster: Cluster) -> None:
    with plain(cluster) as connection:
        connection.sendall(
            b"GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 403")


def test_what_serve_would_do_for_strangers_it_does_not(cluster: Cluster) -> None:
    """Its headers bound no request and keep none running; an odd id is not echoed; text that is none fails nothing."""
    with cluster.client() as client:
        asked = client.post(
            PATH,
            json=chat("bounded", max_tokens=40),
            headers={"x-request-timeout-seconds": "0.001", "serve_multiplexed_model_id": "x"},
        )
        assert asked.status_code == 200, asked.text
        for given in (b"a b", b"x" * 300, b"\xff", b"<script>"):
            answer = client.get("/v1/models", headers=[(b"x-request-id", given)])
            (named,) = answer.headers.get_list("x-request-id")
            assert named.startswith("req_")
        odd = [(b"x-session-id", b"\xff\xfe"), (b"traceparent", b"\xff")]
        answer = client.post(PATH, json=chat(max_tokens=1), headers=odd)
        assert answer.status_code == 200, answer.text
    cluster.idle()
    before = sum(cluster.samples("genarm_request_success_total", finished_reason="abort").values())
    with cluster.client() as client, pytest.raises(httpx.ReadTimeout):
        client.post(
            PATH,
            json=chat("goes on?", max_tokens=3900),
            headers={"x-request-disconnect-disabled": "?1"},
            timeout=1.5,
        )
    cluster.idle()
    after = sum(cluster.samples("genarm_request_success_total", finished_reason="abort").values())
    assert after == before + 1


def test_a_stream_that_is_cancelled_ends_well_for_its_reader(cluster: Cluster) -> None:
    with cluster.client() as client, streaming(client, text="cancelled", max_tokens=3900) as (id, events):
        with cluster.client() as other:
            other.delete(f"{PATH}/{id}").raise_for_status()
        *_, last, done = events
    assert (done, json.loads(last)["choices"][0]["finish_reason"]) == ("[DONE]", "stop")


def test_who_does_not_read_is_left_in_the_end(cluster: Cluster, still: Still) -> None:
    left = time.monotonic() + SEND_SECONDS + 60
    while _is_open(still.connection, cluster.port):
        assert time.monotonic() < left
        time.sleep(0.5)
    assert time.monotonic() - still.began > SEND_SECONDS, "it had its time"
    end = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := still.connection.recv(1 << 20):  # what lay on the way
            end = (end + chunk)[-1000:]
    assert end
    assert b"[DONE]" not in end
    assert not end.endswith(b"0\r\n\r\n"), "nobody takes it for the end"
