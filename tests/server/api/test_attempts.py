"""What strangers try, each refused: docs/security.md lists it. Over raw sockets, so that no client tidies a request up."""

import contextlib
import gzip
import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.access import key_ring
from server.config import read_deployment
from server.runtime import load_runtime

KEY = "secret-key-of-the-test"
OTHER = "other-key-of-the-test"
LIMIT = 1 << 16


@dataclass(frozen=True)
class Reply:
    """An answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object."""
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


def raw(server: Any, sent: bytes) -> Reply:
    """What the server answers to these bytes before it closes the connection; status 0 if it just closes it."""
    host, port = server.url.removeprefix("http://").split(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        try:
            connection.sendall(sent)
            while part := connection.recv(1 << 16):
                received += part
        except ConnectionError:  # closed while there was more to say
            pass
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Reply(int(first.split(" ")[1]) if first else 0, headers, body)


def ask(
    server: Any, target: str, *lines: str, method: str = "GET", body: bytes = b"", host: str = "localhost"
) -> Reply:
    """One request, written as it stands here."""
    head = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", *lines]
    if body:
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return raw(server, "\r\n".join((*head, "", "")).encode("latin-1") + body)


def bearer(key: str = KEY) -> str:
    return f"Authorization: Bearer {key}"


@pytest.fixture(scope="module")
def closed(scripted: Callable[..., Any]) -> Iterator[Any]:
    """A server with two keys."""
    with scripted(keys=[KEY, OTHER], http={"max_body_bytes": LIMIT}) as server:
        server.engine.free()
        yield server


@pytest.fixture(scope="module")
def local(scripted: Callable[..., Any]) -> Iterator[Any]:
    """A server on loopback without keys, as `make serve` starts it."""
    with scripted(http={"max_body_bytes": LIMIT}) as server:
        server.engine.free()
        yield server


# ---- Around the key -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        *(
            "//v1/models",
            "/./v1/models",
            "/%2e/v1/models",
            "/%2e%2e/v1/models",
            "/v1/../v1/models",
            "/v1/./models",
        ),
        *(
            "/health/../v1/models",
            "/health/..%2fv1/models",
            "/health%2f..%2fv1%2fmodels",
            "/health;/../v1/models",
        ),
        *(
            "/health/",
            "/health//",
            "//health",
            "/health%00",
            "/health%20",
            "/health;x",
            "/health.json",
            "/health%3f",
        ),
        *(
            "/HEALTH",
            "/Health",
            "/V1/models",
            "/v1/models/",
            "/v1//models",
            "/v1%2fmodels",
            "/v1/models%00",
            "/v1\\models",
        ),
        *(
            "/page/../v1/models",
            "/page/%2e%2e/metrics",
            "/ready/../metrics",
            "/metrics",
            "/openapi.json",
            "/docs",
        ),
        *(
            "/tokenizer_info",
            "/v1/preferences",
            "/v1/models/tiny",
            "/v1/models?api_key=" + KEY,
            "/v1/models#/health",
        ),
        *(
            "http://localhost/v1/models",
            "http://localhost/health",
            "http://localhost:80//health",
            "*",
            "/%2568ealth",
        ),
    ],
)
def test_no_spelling_of_a_path_goes_around_the_key(closed: Any, target: str) -> None:
    reply = ask(closed, target)
    assert reply.status in (400, 401), (target, reply)
    assert b"tiny" not in reply.body


def test_an_open_path_is_that_path_and_no_other(closed: Any) -> None:
    for target in ("/health", "/health?/../v1/models", "/%68ealth"):
        assert json.loads(ask(closed, target).body) == {"status": "ok"}


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "BREW"]
)
def test_no_verb_goes_around_the_key(closed: Any, method: str) -> None:
    assert ask(closed, "/v1/models", method=method).status == 401


@pytest.mark.parametrize(
    "lines",
    [
        ["Authorization: Bearer"],
        ["Authorization: Bearer "],
        [f"Authorization: {KEY}"],
        [f"Authorization: Basic {KEY}"],
        [f"Authorization: Bearer\t{KEY}"],
        [f"Authorization: Bearer {KEY},"],
        [f"Authorization: Bearer {KEY[:-1]}"],
        [f"Authorization: Bearer {KEY} {KEY}"],
        [f"Authorization: Bearer {KEY.upper()}"],
        [f"Authorization: Bearer {KEY}\x85x"],
        ["Authorization: Bearer wrong", f"Authorization: Bearer {KEY}"],
        [f"X-Api-Key: {KEY}"],
        [f"Api-Key: {KEY}"],
        [f"Cookie: key={KEY}"],
        [f"Proxy-Authorization: Bearer {KEY}"],
        ["X-Original-URL: /health"],
        ["X-Rewrite-URL: /health"],
        ["X-Forwarded-Prefix: /health", "X-Forwarded-For: 127.0.0.1"],
        ["X-HTTP-Method-Override: OPTIONS"],
        [
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        ],
    ],
)
def test_no_header_stands_in_for_the_key(closed: Any, lines: list[str]) -> None:
    reply = ask(closed, "/v1/models", *lines)
    assert reply.status == 401
    assert reply.error["code"] == "invalid_api_key"
    assert KEY.encode() not in reply.body


def test_a_second_request_on_a_connection_needs_the_key_too(closed: Any) -> None:
    first = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n{bearer()}\r\n\r\n"
    second = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    received = raw(closed, (first + second).encode())
    assert received.status == 200
    assert b"HTTP/1.1 401" in received.body


def test_with_the_key_the_same_request_is_answered(closed: Any) -> None:
    """Without this, all of the above could be refused for another reason."""
    assert ask(closed, "/v1/models", bearer()).status == 200
    assert ask(closed, "/v1/models", bearer(OTHER)).status == 200


@pytest.mark.parametrize("given", [KEY, OTHER, "", "s", KEY + "x", KEY[:-1] + "x", "x" * 20_000])
def test_a_key_is_compared_with_every_other_whatever_it_is(
    closed: Any, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    compared: list[tuple[int, int]] = []

    class Watched:
        @staticmethod
        def compare_digest(left: bytes, right: bytes) -> bool:
            compared.append((len(left), len(right)))
            return left == right

    monkeypatch.setattr(key_ring, "hmac", Watched)
    assert ask(closed, "/v1/models", bearer(given)).status == (200 if given in (KEY, OTHER) else 401)
    assert compared == [(32, 32)] * 2


def test_refusals_are_counted_once_and_logged_without_the_key(
    closed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def refused() -> float:
        text = ask(closed, "/metrics", bearer()).body.decode()
        (count,) = re.findall(r'^genarm_request_failure_total\{[^}]*status="401"\} (\S+)', text, re.MULTILINE)
        return float(count)

    ask(closed, "/v1/models")
    before = refused()
    caplog.set_level(logging.INFO, "genarm.requests")
    for target in ("/v1/models", "/metrics", "/nope"):
        assert ask(closed, target, bearer("sk-wrong-guess")).status == 401
    assert refused() == before + 3
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "genarm.requests"]
    assert [(line["route"], line["status"]) for line in lines] == [
        ("GET /v1/models", 401),
        ("GET /metrics", 401),
        ("GET /nope", 401),
    ]
    assert "sk-wrong-guess" not in caplog.text


# ---- Other people's requests ----------------------------------------------------------------------------------------


def test_an_id_of_another_key_is_as_unknown_as_a_guess(scripted: Callable[..., Any]) -> None:
    with scripted(keys=[KEY, OTHER]) as server, server.client(authorization=f"Bearer {KEY}") as client:
        with server.open(client, max_tokens=2) as events:
            id = next(events)["id"]
            change = b'{"preferences": {"helpful": 9}}'
            for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
                for guess in (id, f"{id}/0", id.upper(), f"{id}%00", f"{id}/", f"../{id}"):
                    for method in ("GET", "PATCH", "DELETE"):
                        body = change if method == "PATCH" else b""
                        reply = ask(server, f"{path}/{guess}", bearer(OTHER), method=method, body=body)
                        assert reply.status in (404, 405), (method, path, guess)
                        assert b"helpful" not in reply.body
            unknown = ask(server, "/v1/chat/completions/chatcmpl-0", bearer(OTHER))
            assert ask(server, f"/v1/chat/completions/{id}", bearer(OTHER)).body == unknown.body
            assert ask(server, f"/v1/chat/completions/{id}", bearer()).status == 200
            server.engine.free()
            assert list(events)[-1] == "[DONE]"
        assert server.engine.mixes == [{"base": 1.0, "helpful": 1.0, "harmless": 0.5}]


def test_an_answer_cannot_be_gone_on_with_by_its_id(closed: Any) -> None:
    asked = {"model": "tiny", "input": "hello", "max_output_tokens": 1}
    sent = json.dumps(asked).encode()
    made = ask(closed, "/v1/responses", bearer(), method="POST", body=sent)
    assert made.status == 200
    id = json.loads(made.body)["id"]
    for fields in (
        {"previous_response_id": id},
        {"conversation": id},
        {"input": [{"type": "item_reference", "id": id}]},
        {"store": True, "previous_response_id": id},
    ):
        body = json.dumps(asked | fields).encode()
        for key in (KEY, OTHER):
            refused = ask(closed, "/v1/responses", bearer(key), method="POST", body=body)
            assert refused.status == 400, fields
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
        assert ask(closed, f"/v1/responses/{id}{path}", bearer(), method=method).status == 404


@pytest.mark.parametrize("verb", ["DELETE", "PATCH"])
def test_no_header_makes_another_verb_of_a_request(scripted: Callable[..., Any], verb: str) -> None:
    with scripted(keys=[KEY]) as server, server.client(authorization=f"Bearer {KEY}") as client:
        with server.open(client, max_tokens=2) as events:
            url = f"/v1/chat/completions/{next(events)['id']}"
            change = b'{"preferences": {"helpful": 9}}'
            for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method"):
                assert ask(server, url, bearer(), f"{name}: {verb}").status == 200
                assert ask(server, f"{url}?_method={verb}", bearer(), f"{name}: {verb}").status == 200
                posted = ask(server, url, bearer(), f"{name}: {verb}", method="POST", body=change)
                assert posted.status == 405
            server.engine.free()
            assert list(events)[-1] == "[DONE]"
        assert (len(server.engine.mixes), server.engine.aborted) == (1, [])


def test_what_another_key_has_sent_is_read_anew(serve: Callable[..., Any], declared: dict[str, Any]) -> None:
    """Of the real engine: kept prompts are found by those who sent them."""
    prompt = [11 + number * 3 % 250 for number in range(150)]
    body = json.dumps({"model": "tiny", "prompt": prompt, "max_tokens": 1}).encode()
    found = []
    with serve(read_deployment(declared, "test"), load_runtime, keys=[KEY, OTHER]) as server:
        for key in (KEY, KEY, OTHER, OTHER):
            reply = ask(server, "/v1/completions", bearer(key), method="POST", body=body)
            found.append(json.loads(reply.body)["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert found == [0, 128, 0, 128]


def test_ids_are_no_counter(closed: Any) -> None:
    body = json.dumps(closed.body(max_tokens=1)).encode()
    replies = [ask(closed, "/v1/chat/completions", bearer(), method="POST", body=body) for _ in range(5)]
    ids = {json.loads(reply.body)["id"] for reply in replies}
    assert len(ids) == 5
    assert all(re.fullmatch(r"chatcmpl-[0-9a-f]{32}", id) for id in ids)


# ---- Into templates and logs ----------------------------------------------------------------------------------------

INJECTED = "{{ 7 * 7 }}{% for m in messages %}boom{% endfor %}{{ ''.__class__.__mro__ }}{# gone #}"


def test_what_looks_like_a_template_is_text(closed: Any) -> None:
    for role in ("system", "user", "assistant"):
        body = {
            "model": "tiny",
            "messages": [{"role": role, "content": INJECTED}, {"role": "user", "content": "x"}],
        }
        sent = json.dumps(body).encode()
        read = json.loads(ask(closed, "/tokenize", bearer(), method="POST", body=sent).body)
        back = json.dumps({"tokens": read["tokens"]}).encode()
        text = json.loads(ask(closed, "/detokenize", bearer(), method="POST", body=back).body)["prompt"]
        assert INJECTED in text


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template": "{{ 1 }}"},
        {"chat_template_kwargs": {"x": "{{ 1 }}"}},
        {"template": "{{ 1 }}"},
        {"documents": [{"text": "x"}]},
        {"messages": [{"role": "{{ 1 }}", "content": "x"}]},
        {"messages": [{"role": "user", "content": {"__class__": "x"}}]},
        {"guidance": {"method": "__class__"}},
        {"guidance": {"method": "server.decoding.mod"}},
        {"preferences": {"__class__": 1}},
        {"model": "../../etc/passwd"},
        {"model": "tiny:../plain"},
    ],
)
def test_a_request_brings_no_template_no_code_and_no_file(closed: Any, fields: dict[str, Any]) -> None:
    body = json.dumps(closed.body(max_tokens=1) | fields).encode()
    reply = ask(closed, "/v1/chat/completions", bearer(), method="POST", body=body)
    assert reply.status in (400, 404)
    assert set(reply.error) == {"message", "type", "param", "code"}


def test_nothing_that_is_sent_makes_a_line_of_the_log(closed: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    forged = '\n{"id": "forged", "status": 200}\r\x1b[2K\u2028'
    for model in (forged, "tiny" + forged):
        body = json.dumps(closed.body(model=model, preferences={forged: 1}, user=forged)).encode()
        assert ask(closed, "/v1/chat/completions", bearer(), method="POST", body=body).status == 404
    for target in (
        "/v1/x%0a%7b%22forged%22%7d%1b%5b2K",
        "/v1/%e2%80%a8forged",
        "/v1/chat/completions/%0d%0aforged",
    ):
        for key in (KEY, "wrong"):
            assert ask(closed, target, bearer(key)).status in (401, 404)
    assert ask(closed, "/v1/models", host='evil"forged').status == 400
    records = [record for record in caplog.records if record.name.startswith("genarm")]
    assert len(records) == 9
    for record in records:
        line = record.getMessage()
        assert line.isprintable(), line
        assert json.loads(line).get("id") != "forged"


@pytest.mark.parametrize(
    "given", ["a b", "\x1b[31mred", '{"forged": 1}', "a" * 129, "é", "../x", "<b>", "%0a", ""]
)
def test_an_id_that_is_not_sane_is_not_echoed(closed: Any, given: str) -> None:
    reply = ask(closed, "/health", f"X-Request-Id: {given}")
    assert reply.status == 200
    assert re.fullmatch(r"req_[0-9a-f]{32}", reply.headers["x-request-id"])


@pytest.mark.parametrize(
    "line",
    [
        b"X-Request-Id: a\rSet-Cookie: forged=1",
        b"X-Request-Id: a\x00b",
        b"X-Request-Id : a",
        b"X-Request\x00-Id: a",
        b"X-Request-Id: a\x0b",
        b"X Request-Id: a",
        b": a",
    ],
)
def test_a_head_with_control_characters_is_no_request(closed: Any, line: bytes) -> None:
    reply = raw(closed, b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + line + b"\r\n\r\n")
    assert reply.status == 400
    assert b"forged" not in str(reply.headers).encode()


@pytest.mark.parametrize("id", ["%00", "x%00", "%0d%0aSet-Cookie:%20forged=1", "%0a", "%c0%80", "%ff", "%"])
def test_no_id_breaks_out_of_an_answer(closed: Any, id: str) -> None:
    for path in ("/v1/chat/completions", "/v1/models", "/v1/admin/rewards"):
        for method in ("GET", "DELETE"):
            reply = ask(closed, f"{path}/{id}", bearer(), method=method)
            assert reply.status in (400, 403, 404, 405), (path, method)
            assert "set-cookie" not in reply.headers
            assert set(reply.error) == {"message", "type", "param", "code"}


# ---- Behind another request -----------------------------------------------------------------------------------------

POST = (
    f"POST /tokenize HTTP/1.1\r\nHost: localhost\r\n{bearer()}\r\nContent-Type: application/json\r\n".encode()
)
HIDDEN = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n{bearer()}\r\nConnection: close\r\n\r\n".encode()
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: 5\r\n" + CHUNKED, b"0\r\n\r\n"),
        (CHUNKED + b"Content-Length: 5\r\n", b"0\r\n\r\n"),
        (CHUNKED + b"Content-Length: 0\r\n", b"0\r\n\r\n"),
        (b"Content-Length: 2\r\nContent-Length: 3\r\n", b"{}"),
        (b"Content-Length: 2, 3\r\n", b"{}"),
        (b"Content-Length: +2\r\n", b"{}"),
        (b"Content-Length: 0x2\r\n", b"{}"),
        (b"Content-Length: 2 \x00\r\n", b"{}"),
        (CHUNKED + CHUNKED, b"0\r\n\r\n"),
        (b"Transfer-Encoding: identity\r\n", b"0\r\n\r\n"),
        (b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"),
        (b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"),
        (b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n"),
        (b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"),
        (CHUNKED, b"0x2\r\n{}\r\n0\r\n\r\n"),
        (CHUNKED, b"-2\r\n{}\r\n0\r\n\r\n"),
        (CHUNKED, b"2\n{}\n0\n\n"),
        (CHUNKED, b"2\r\n{}xx0\r\n\r\n"),
    ],
)
def test_where_a_request_ends_is_said_in_one_way_or_nothing_follows(
    closed: Any, head: bytes, body: bytes
) -> None:
    reply = raw(closed, POST + head + b"\r\n" + body + HIDDEN)
    assert reply.status == 400
    assert b"HTTP/1.1" not in reply.body, "the connection went on"
    assert b"tiny" not in reply.body


def test_otherwise_a_request_that_follows_is_answered(closed: Any) -> None:
    """Without this, all of the above could be refused for another reason."""
    for head, body in ((b"Content-Length: 2\r\n", b"{}"), (CHUNKED, b"2\r\n{}\r\n0\r\n\r\n")):
        reply = raw(closed, POST + head + b"\r\n" + body + HIDDEN)
        assert reply.status == 400
        assert b"HTTP/1.1 200" in reply.body
        assert b"tiny" in reply.body


@pytest.mark.parametrize(
    "sent",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        b"GET /v1/models\r\n\r\n",
        b"GET /v1/models x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x00" * 100,
    ],
    ids=["HTTP/2", "TLS", "HTTP/0.9", "two targets", "a null byte", "null bytes"],
)
def test_what_is_no_http_is_answered_once_and_left(closed: Any, sent: bytes) -> None:
    assert raw(closed, sent).status == 400
    assert ask(closed, "/health").status == 200


# ---- To files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        *(
            "/page/../../../../../../etc/passwd",
            "/page/..%2f..%2f..%2fapp.py",
            "/page/%2e%2e/%2e%2e/config.py",
        ),
        *(
            "/page//etc/passwd",
            "/page/..\\..\\app.py",
            "/page/....//....//app.py",
            "/page/%252e%252e%252fapp.py",
        ),
        *(
            "/..%2fserver%2fconfig.py",
            "/page/.%00./app.py",
            "/page",
            "/page/",
            "/index.html",
            "/static/index.html",
        ),
        *(
            "/etc/passwd",
            "//etc/passwd",
            "/file:///etc/passwd",
            "/page/%c0%ae%c0%ae/app.py",
            "/.git/config",
            "/.env",
        ),
    ],
)
def test_no_path_leads_to_a_file_that_is_not_of_the_page(local: Any, target: str) -> None:
    reply = ask(local, target)
    assert reply.status == 404, (target, reply)
    assert b"root:" not in reply.body
    assert b"import" not in reply.body


# ---- Too much -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "coding", ["gzip", "x-gzip", "deflate", "br", "zstd", "gzip, gzip", "identity, gzip"]
)
def test_a_compressed_body_is_not_unpacked(closed: Any, coding: str) -> None:
    bomb = gzip.compress(b" " * (32 * LIMIT))
    assert len(bomb) < LIMIT
    reply = ask(
        closed, "/v1/chat/completions", bearer(), f"Content-Encoding: {coding}", method="POST", body=bomb
    )
    assert reply.status == 415


def test_a_body_is_cut_off_at_its_limit_whatever_it_declares(closed: Any) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n{bearer()}\r\nContent-Type: application/json\r\n"
    declared = raw(closed, f"{head}Connection: close\r\nContent-Length: {10**15}\r\n\r\n{{".encode())
    assert declared.status == 413
    chunk = b"2000\r\n" + b" " * 0x2000 + b"\r\n"
    chunked = raw(
        closed,
        f"{head}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + chunk * 9 + b"0\r\n\r\n",
    )
    assert chunked.status == 413
    for length in ("-1", "1e3", "0x10", "1, 2", "9" * 30):
        sent = f"{head}Connection: close\r\nContent-Length: {length}\r\n\r\n{{}}"
        assert raw(closed, sent.encode()).status in (400, 413), length


@pytest.mark.parametrize(
    "body", [b"[" * 60_000, b'{"a":' * 12_000, b'{"messages": ' + b"[" * 50_000, b"1" * 60_000]
)
def test_a_deep_or_endless_value_is_refused(closed: Any, body: bytes) -> None:
    assert ask(closed, "/v1/chat/completions", bearer(), method="POST", body=body).status == 400


START = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        START + b"X: " + b"a" * (1 << 20) + b"\r\n\r\n",
        START + b"X: a\r\n" * 200_000 + b"\r\n",
        b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        START.replace(b"GET", b"POST") + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * (1 << 20),
    ],
    ids=["one header", "many headers", "target", "chunk extension"],
)
def test_a_flood_of_headers_ends_the_connection_and_nothing_else(closed: Any, sent: bytes) -> None:
    reply = raw(closed, sent)
    assert reply.status in (0, 400, 401)  # 401: the head was whole, and its body is not read
    assert ask(closed, "/health").status == 200


OPEN_BODY = b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\n" + CHUNKED + b"\r\n"


@contextlib.contextmanager
def answered_early(server: Any) -> Iterator[socket.socket]:
    """The connection of a stranger who got a 401 and whose body goes on."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(OPEN_BODY)
        answer = b""
        while b"invalid_api_key" not in answer:
            part = connection.recv(1 << 16)
            assert part
            answer += part
        yield connection


def test_a_body_that_goes_on_after_its_answer_ends_the_connection(
    closed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    original = H11Protocol.data_received

    def noted(self: H11Protocol, data: bytes) -> None:
        taken.append(len(data))
        original(self, data)

    monkeypatch.setattr(H11Protocol, "data_received", noted)
    monkeypatch.setattr("server.api.connection.MOST_UNREAD", 1 << 20)
    chunks = b"1\r\nx\r\n" * 10_000
    with answered_early(closed) as connection:
        connection.sendall(chunks)
        assert ask(closed, "/health").status == 200
        with pytest.raises(ConnectionError):
            for _ in range(300):  # 18 MB
                connection.sendall(chunks)
    assert max(taken) <= 16 * 1024  # what is parsed before others have their turn
    assert sum(taken) < 1.2 * (1 << 20)
    assert ask(closed, "/health").status == 200


def test_what_still_comes_of_an_answered_body_is_counted_for_that_request_alone(
    closed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.api.connection.MOST_UNREAD", 1 << 20)
    rest = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    with answered_early(closed) as connection:
        for _ in range(3):
            connection.sendall(rest * 20 + b"0\r\n\r\n" + OPEN_BODY)
            answer = b""
            while b"invalid_api_key" not in answer:
                part = connection.recv(1 << 16)
                assert part, "the connection ended"
                answer += part


def test_what_is_no_chunk_after_an_answer_ends_the_connection_without_a_traceback(
    closed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with answered_early(closed) as connection:
        connection.sendall(b"zz\r\n")
        assert connection.recv(1 << 16) == b""
    assert ask(closed, "/health").status == 200
    assert not [record for record in caplog.records if record.name == "asyncio" or record.exc_info]


# ---- From a page in somebody's browser ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[fe80::1]", "x/v1/", "["]
)
def test_a_name_that_was_bound_to_loopback_is_not_answered(local: Any, host: str) -> None:
    for target in ("/v1/models", "/", "/metrics", "/v1/chat/completions", "/nope"):
        reply = ask(local, target, host=host)
        assert reply.status == 400
        assert reply.error["code"] == "host_not_allowed"
    assert ask(local, "/health", host=host).status == 200


@pytest.fixture(scope="module")
def container(scripted: Callable[..., Any]) -> Iterator[Any]:
    """A server without keys that listens on every address of a container, as docker-compose.yml starts it."""
    declared = {"host": "0.0.0.0", "allow_anonymous": True, "allowed_hosts": ["server"]}
    with scripted(http=declared) as server:
        yield server


def test_in_a_container_without_keys_only_declared_names_are_answered(container: Any) -> None:
    for host in ("server:8000", "SERVER", "localhost:8000", "127.0.0.1:3001", "[::1]"):
        assert ask(container, "/metrics", host=host).status == 200
    for host in ("evil.example:8000", "server.evil.example", "server.", "10.0.0.1"):
        reply = ask(container, "/v1/models", host=host)
        assert (reply.status, reply.error["code"]) == (400, "host_not_allowed")
        assert ask(container, "/ready", host=host).status == 200


def test_on_other_addresses_without_keys_no_page_can_be_called_as_the_server_is(
    scripted: Callable[..., Any],
) -> None:
    with scripted(http={"host": "0.0.0.0", "allow_anonymous": True}) as server:
        for host in ("192.0.2.7:8000", "[2001:db8::1]:8000", "localhost"):
            assert ask(server, "/v1/models", host=host).status == 200
        for host in ("evil.example", "box.lan:8000", "2130706433", "192.0.2.7.nip.io"):
            assert ask(server, "/v1/models", host=host).status == 400


def test_loopbacks_own_names_are_answered_and_no_two_hosts(local: Any) -> None:
    for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"):
        assert ask(local, "/v1/models", host=host).status == 200
    assert ask(local, "/v1/models", "Host: evil.example").status == 400
    assert raw(local, b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n").status == 400
    assert raw(local, b"GET /v1/models HTTP/1.0\r\n\r\n").status == 400


def test_a_page_from_elsewhere_can_neither_ask_nor_read(local: Any) -> None:
    origin = "Origin: https://evil.example"
    preflight = ask(
        local, "/v1/chat/completions", origin, "Access-Control-Request-Method: POST", method="OPTIONS"
    )
    read = ask(local, "/v1/models", origin)
    for reply in (preflight, read):
        assert not [name for name in reply.headers if name.startswith("access-control")]
    assert preflight.status == 405
    body = json.dumps(local.body(max_tokens=1)).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        # What a browser sends without asking first.
        lines = (
            origin,
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            "Host: localhost",
        )
        head = "\r\n".join(("POST /v1/chat/completions HTTP/1.1", *lines, "", "")).encode()
        assert raw(local, head + body).status == 415
