"""Bodies, heads and streams that nobody thought of, from a process of their own.

``python -m tests.faults.strangers URL KEY SECONDS`` prints how often which status came; its exit code is not 0 when something was
not as promised: a status, an error's shape, an event, a connection that hangs.
"""

import http.client
import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import hypothesis
from hypothesis import strategies as st

from server.api.schema import ChangeRequest, ChatCompletionRequest, CompletionRequest
from server.api.schema.responses import ResponseRequest
from server.api.schema.tokenize import DetokenizeRequest, TokenizeRequest
from tests.faults.events import fault
from tests.faults.traffic import CODES

PROMISED = frozenset({200, 400, 401, 404, 405, 411, 413, 414, 415, 431, *CODES})
"""What a stranger may be told; an end of the connection without a word is right where the head is torn."""

EXAMPLES = 25
"""In one go; then time is looked at."""

REST = 0.005
"""Seconds between two requests: they come beside the traffic, not in its place."""

PATIENCE = 60
"""Seconds without a byte: the connection hangs."""

MESSAGES = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"
STREAMED: dict[str, tuple[dict[str, Any], list[str]]] = {
    CHAT: ({"messages": MESSAGES, "max_tokens": 2}, sorted(ChatCompletionRequest.model_fields)),
    "/v1/completions": ({"prompt": "water", "max_tokens": 2}, sorted(CompletionRequest.model_fields)),
    "/v1/responses": ({"input": "oven", "max_output_tokens": 2}, sorted(ResponseRequest.model_fields)),
}
"""Where answers come from: a good body, and the fields it may have."""

CHANGED = (CHAT, "/v1/completions")
"""Those of them whose answers can be steered on their way."""

ROUTES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    **{path: ("POST", {"model": "tiny", **good}, known) for path, (good, known) in STREAMED.items()},
    f"{CHAT}/chatcmpl-nobody": ("PATCH", {}, sorted(ChangeRequest.model_fields)),
    "/tokenize": ("POST", {"prompt": "soap"}, sorted(TokenizeRequest.model_fields)),
    "/detokenize": ("POST", {"tokens": [5, 6]}, sorted(DetokenizeRequest.model_fields)),
}
"""Where bodies are sent: how, a good one, and the fields it may have."""

WORDS = (
    "role",
    "content",
    "type",
    "text",
    "helpful",
    "harmless",
    "beta",
    "method",
    "include_usage",
    "schema",
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | texts
    | st.sampled_from(["user", "tiny", "tiny:kind", "genarm", "tokens", 10**40, MESSAGES, "x" * 3000]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | texts, inner, max_size=3)
    ),
    max_leaves=8,
)
names = st.sampled_from(
    [b"host", b"authorization", b"x-request-id", b"accept", b"traceparent", b"expect", b"cookie", b"origin"]
) | st.binary(min_size=1, max_size=12)
lines = st.tuples(names, st.binary(max_size=40)).map(lambda pair: pair[0] + b": " + pair[1])
"""Lines of a head, of any bytes: some are none."""

shown = st.fixed_dictionaries(
    {},
    optional={
        "preferences": st.dictionaries(
            st.sampled_from(["helpful", "harmless"]), st.floats(-2, 3), max_size=2
        ),
        "guidance": st.fixed_dictionaries(
            {},
            optional={
                "beta": st.floats(0.1, 4),
                "report": st.sampled_from(["none", "summary", "tokens"]),
                "method": st.sampled_from(["genarm", "best_of_n"]),
                "n_candidates": st.integers(1, 3),
            },
        ),
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0.01, 1),
        "logit_bias": st.dictionaries(st.integers(0, 320).map(str), st.floats(-100, 100), max_size=3),
        "stop": st.lists(st.text(min_size=1, max_size=3), max_size=3),
        "ignore_eos": st.booleans(),
        "logprobs": st.booleans() | st.integers(0, 20),
        "top_logprobs": st.integers(0, 20),
        "n": st.integers(1, 3),
        "echo": st.booleans(),
        "stream_options": st.dictionaries(
            st.sampled_from(["include_usage", "continuous_usage_stats"]), st.booleans(), max_size=2
        ),
        "response_format": st.sampled_from(
            [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}]
        ),
        "max_tokens": st.integers(1, 30),
        "messages": st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": texts}), max_size=3),
        "prompt": texts | st.lists(st.integers(0, 300), max_size=8),
        "input": texts,
    },
)
"""Fields with values that are right alone, more or less: most of what they make together is a stream."""


@dataclass(frozen=True)
class Sent:
    """One request as bytes; ``torn``: its head is not one that has to be answered; ``short``: it declares more than comes."""

    head: bytes
    body: bytes
    torn: bool
    short: bool = False


@dataclass(frozen=True)
class Streamed:
    """One stream: ``leaves``: lines that its reader waits for, None: all; ``meddled``: what is asked of it behind its first
    event, and with which body.
    """

    path: str
    body: bytes
    leaves: int | None
    meddled: tuple[str, bytes] | None


@dataclass
class Strangers:
    """Sends what hypothesis makes up; ``statuses`` counts what came back: "closed" where nothing did, "left" of a stream."""

    url: str
    key: str
    statuses: Counter[str] = field(default_factory=Counter)

    def run(self, seconds: float) -> None:
        """So long. Raises ``AssertionError`` at the first answer that is not promised."""
        ends, turn = time.monotonic() + seconds, 0
        while time.monotonic() < ends:
            match turn % 3:
                case 0:
                    self._go(turn, self._heads(), self._tell)
                case 1:
                    self._go(turn, self._bodies(), self._tell)
                case 2:
                    self._go(turn, _streams(), self._stream)
            turn += 1

    def _go(self, turn: int, requests: st.SearchStrategy[Any], send: Callable[[Any], str]) -> None:
        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.seed(turn)
        @hypothesis.given(requests)
        def one(sent: Any) -> None:
            time.sleep(REST)
            self.statuses[send(sent)] += 1

        one()

    def _bodies(self) -> st.SearchStrategy[Sent]:
        """A good head, and a body with some fields replaced; or torn; or something else altogether."""

        def of(path: str) -> st.SearchStrategy[Sent]:
            method, good, known = ROUTES[path]
            changes = st.dictionaries(st.sampled_from(known) | texts, values, min_size=1, max_size=4)
            bodies = changes.map(lambda fields: json.dumps(_short(good | fields)).encode())
            cut = st.tuples(bodies, st.integers(0, 2000)).map(lambda pair: pair[0][: pair[1]])
            return (bodies | bodies | cut | values.map(json.dumps).map(str.encode)).map(
                lambda body: Sent(self._head(method, path, len(body)), body, torn=False)
            )

        return st.sampled_from(sorted(ROUTES)).flatmap(of)

    def _heads(self) -> st.SearchStrategy[Sent]:
        """A good body under a head with lines of any bytes, another length than it has, or on another path."""
        method, good, _ = ROUTES[CHAT]
        body = json.dumps({**good, "stream": True}).encode()
        lengths = st.sampled_from([len(body)] * 3 + [0, 5, 10**12]) | st.integers(-5, 10**20)
        paths = st.sampled_from([CHAT, "/v1/models", "/health", "/metrics", "/../etc", "//v1"])

        def of(path: str, more: list[bytes], length: int) -> Sent:
            head = self._head(method, path, length, *more)
            return Sent(head, body, torn=bool(more) or length != len(body), short=length > len(body))

        return st.builds(of, paths, st.lists(lines, max_size=4), lengths)

    def _head(self, method: str, path: str, length: int, *more: bytes) -> bytes:
        first = f"{method} {path} HTTP/1.1\r\nhost: {urlsplit(self.url).netloc}\r\nconnection: close"
        own = (
            f"authorization: Bearer {self.key}\r\ncontent-type: application/json\r\ncontent-length: {length}"
        )
        return b"\r\n".join([first.encode(), *more, own.encode()]) + b"\r\n\r\n"

    def _tell(self, sent: Sent) -> str:
        """The status of an answer that was read to its end; "closed" without one."""
        place = urlsplit(self.url)
        answer = b""
        with socket.create_connection(
            (place.hostname or "", place.port or 80), timeout=PATIENCE
        ) as connection:
            try:
                connection.sendall(sent.head + sent.body)
                if sent.short:
                    connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    answer += part
            except ConnectionError:
                pass  # it had heard enough
        parts = answer.split(b" ", 2)
        status = parts[1].decode("latin-1") if len(parts) > 1 else "closed"
        if sent.torn:
            assert status == "closed" or int(status) in PROMISED, (status, sent, answer)
        else:
            _check(status, answer.partition(b"\r\n\r\n")[2], sent)
        return status

    def _stream(self, sent: Streamed) -> str:
        """The status of what should be a stream; "left" where its reader went."""
        connection = self._connect()
        try:
            connection.request("POST", sent.path, sent.body, self._headers)
            answer = connection.getresponse()
            if answer.status != 200 or "event-stream" not in answer.headers["content-type"]:
                _check(str(answer.status), answer.read(), sent)
                return str(answer.status)
            read: list[bytes] = []
            meddled = sent.meddled
            while line := answer.readline():
                read.append(line)
                if sent.leaves is not None and len(read) > sent.leaves:
                    return "left"
                if meddled is not None and line.startswith(b"data: "):
                    self._meddle(f"{sent.path}/{_id(line)}", *meddled)
                    meddled = None
        finally:
            connection.close()
        wrong = fault(read)
        assert not wrong, (wrong, sent)
        return "stream"

    def _meddle(self, path: str, method: str, body: bytes) -> None:
        connection = self._connect()
        try:
            connection.request(method, path, body, self._headers)
            answer = connection.getresponse()
            _check(str(answer.status), answer.read(), (method, path, body))
            self.statuses[f"{method} {answer.status}"] += 1
        finally:
            connection.close()

    @property
    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}", "content-type": "application/json"}

    def _connect(self) -> http.client.HTTPConnection:
        place = urlsplit(self.url)
        return http.client.HTTPConnection(place.hostname or "", place.port, timeout=PATIENCE)


def _streams() -> st.SearchStrategy[Streamed]:
    """Streams of what is right, and sometimes is not; read to the end or not; meddled with on their way."""

    def of(path: str) -> st.SearchStrategy[Streamed]:
        good, known = STREAMED[path]
        own = shown.map(lambda fields: {name: value for name, value in fields.items() if name in known})
        odd = st.just({}) | st.just({}) | st.dictionaries(st.sampled_from(known), values, max_size=1)
        bodies = st.builds(lambda more, odder: {**good, **more, **odder, "stream": True}, own, odd)
        changes = st.dictionaries(st.sampled_from(["preferences", "guidance"]) | texts, values, max_size=2)
        weights = st.dictionaries(st.sampled_from(["helpful", "harmless"]), st.floats(-3, 3), max_size=2)
        right = weights.map(lambda preferences: {"preferences": preferences})
        meddled = st.tuples(
            st.sampled_from(["PATCH", "PATCH", "PATCH", "DELETE", "GET"]),
            (changes | right | values).map(lambda body: json.dumps(body).encode()),
        )
        return st.builds(
            Streamed,
            st.just(path),
            bodies.map(lambda body: json.dumps(_short({"model": "tiny", **body}, 30)).encode()),
            st.none() | st.none() | st.integers(0, 40),
            st.none() | meddled if path in CHANGED else st.none(),
        )

    return st.sampled_from(sorted(STREAMED)).flatmap(of)


def _id(line: bytes) -> str:
    """Of the request, as its first event tells it."""
    return str(json.loads(line.removeprefix(b"data: ")).get("id"))


def _check(status: str, body: bytes, sent: object) -> None:
    """A status that is promised, and the one shape of errors."""
    assert status.isdigit() and int(status) in PROMISED, (status, body, sent)
    if status == "200":
        return
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}, (error, sent)
    assert error["code"] == CODES.get(int(status), error["code"]), (error, sent)


def _short(body: dict[str, Any], most: int = 4) -> dict[str, Any]:
    """A short answer, lest most of the time be spent on long ones; few choices, lest they fill the server."""
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if name in body and not (isinstance(body[name], int) and body[name] <= most):
            body[name] = 2
    for name in ("n", "best_of"):
        if isinstance(body.get(name), int) and body[name] > 3:
            body[name] = 1
    return body


if __name__ == "__main__":
    strangers = Strangers(sys.argv[1], sys.argv[2])
    try:
        strangers.run(float(sys.argv[3]))
    finally:
        print(json.dumps(strangers.statuses))
