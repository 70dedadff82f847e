"""Bodies and headers that nobody thought of, from a process of their own: ``python -m tests.faults.strangers URL KEY SECONDS``.

It prints how often which status came; its exit code is not 0 when one was none of the promised ones.
"""

import json
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import hypothesis
from hypothesis import strategies as st

from server.api.schema import ChangeRequest, ChatCompletionRequest, CompletionRequest

PROMISED = frozenset({200, 400, 401, 404, 405, 411, 413, 414, 415, 429, 431})
"""What a stranger may be told; an end of the connection without a word is right where the head is torn."""

EXAMPLES = 25
"""In one go; then time is looked at."""

REST = 0.005
"""Seconds between two requests: they come beside the traffic, not in its place."""

MESSAGES = [{"role": "user", "content": "hello"}]
ROUTES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "/v1/chat/completions": ("POST", {"messages": MESSAGES}, sorted(ChatCompletionRequest.model_fields)),
    "/v1/completions": ("POST", {"prompt": "water"}, sorted(CompletionRequest.model_fields)),
    "/v1/chat/completions/chatcmpl-nobody": ("PATCH", {}, sorted(ChangeRequest.model_fields)),
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


@dataclass(frozen=True)
class Sent:
    """One request as bytes; ``torn``: its head is not one that has to be answered; ``short``: it declares more than comes."""

    head: bytes
    body: bytes
    torn: bool
    short: bool = False


@dataclass
class Strangers:
    """Sends what hypothesis makes up; ``statuses`` counts what came back, "closed" where nothing did."""

    url: str
    key: str
    statuses: Counter[str] = field(default_factory=Counter)

    def run(self, seconds: float) -> None:
        """So long. Raises ``AssertionError`` at the first answer that is not promised."""
        ends, turn = time.monotonic() + seconds, 0
        while time.monotonic() < ends:
            self._go(turn, self._bodies() if turn % 2 else self._heads())
            turn += 1

    def _go(self, turn: int, requests: st.SearchStrategy[Sent]) -> None:
        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.seed(turn)
        @hypothesis.given(requests)
        def send(sent: Sent) -> None:
            time.sleep(REST)
            status = self._send(sent)
            self.statuses[status] += 1
            assert (sent.torn and status == "closed") or (status.isdigit() and int(status) in PROMISED), (
                status,
                sent,
            )

        send()

    def _bodies(self) -> st.SearchStrategy[Sent]:
        """A good head, and a body with some fields replaced; or torn; or something else altogether."""

        def of(path: str) -> st.SearchStrategy[Sent]:
            method, needed, known = ROUTES[path]
            good = {"model": "tiny", "max_tokens": 2, **needed} if method == "POST" else needed
            changes = st.dictionaries(st.sampled_from(known) | texts, values, min_size=1, max_size=4)
            bodies = changes.map(lambda fields: json.dumps(_short(good | fields)).encode())
            cut = st.tuples(bodies, st.integers(0, 2000)).map(lambda pair: pair[0][: pair[1]])
            return (bodies | bodies | cut | values.map(json.dumps).map(str.encode)).map(
                lambda body: Sent(self._head(method, path, len(body)), body, torn=False)
            )

        return st.sampled_from(sorted(ROUTES)).flatmap(of)

    def _heads(self) -> st.SearchStrategy[Sent]:
        """A good body under a head with lines of any bytes, another length than it has, or on another path."""
        method, needed, _ = ROUTES["/v1/chat/completions"]
        body = json.dumps({"model": "tiny", "max_tokens": 1, "stream": True, **needed}).encode()
        lengths = st.sampled_from([len(body)] * 3 + [0, 5, 10**12]) | st.integers(-5, 10**20)
        paths = st.sampled_from(
            ["/v1/chat/completions", "/v1/models", "/health", "/metrics", "/../etc", "//v1"]
        )

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

    def _send(self, sent: Sent) -> str:
        """The status of the answer, read to its end; "closed" without one."""
        place = urlsplit(self.url)
        with socket.create_connection((place.hostname or "", place.port or 80), timeout=60) as connection:
            answer = b""
            try:
                connection.sendall(sent.head + sent.body)
                if sent.short:
                    connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    answer = (answer + part)[:200]
            except ConnectionError:
                pass  # it had heard enough
        parts = answer.split(b" ", 2)
        return parts[1].decode("latin-1") if len(parts) > 1 else "closed"


def _short(body: dict[str, Any]) -> dict[str, Any]:
    """A short answer, lest most of the time be spent on long ones; one choice, lest they fill the server."""
    for name in ("max_tokens", "max_completion_tokens"):
        if name in body and not (isinstance(body[name], int) and body[name] <= 4):
            body[name] = 2
    for name in ("n", "best_of"):
        if isinstance(body.get(name), int) and body[name] > 1:
            body[name] = 1
    return body


if __name__ == "__main__":
    strangers = Strangers(sys.argv[1], sys.argv[2])
    try:
        strangers.run(float(sys.argv[3]))
    finally:
        print(json.dumps(strangers.statuses))
