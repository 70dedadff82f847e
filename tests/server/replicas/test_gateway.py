"""A request goes whole to the right replica and its answer comes back as it is; what became of a replica is told in our words."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest
from starlette.types import Message

from server.access import KeyRing, plain_key
from server.config import Deployment
from server.replicas.affinity import ANYWHERE, likeness
from server.replicas.crowd import Crowds
from server.replicas.errand import Errand, Gone
from server.replicas.exchange import Head
from server.replicas.gateway import Broken, Full, Gateway, Lost
from server.replicas.ticket import Tickets

TICKETS = Tickets(b"s" * 32)
CHAT = "/v1/chat/completions"
START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-request-id", b"req_1")],
}


def said(text: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": text, "more_body": more}


class Fleet:
    """Stands in for the replicas: ``says`` is what one answers, message by message; an exception in it is raised."""

    def __init__(
        self, says: Sequence[Message | Exception] = (), gone: bool = False, dead: Sequence[str] = ()
    ) -> None:
        self.says = says or [START, said(b"data: [DONE]\n\n", more=False)]
        self.gone = gone
        self.dead = list(dead)  # those that a request comes to one after the other, and that do not take it
        self.seen: list[tuple[Errand, Head, bytes]] = []
        self.closed = 0
        self.metrics: Mapping[str, Sequence[Message]] | Exception = {}
        self.waits: Awaitable[Any] | None = None

    async def stream(self, errand: Errand, head: Head, body: bytes) -> AsyncGenerator[list[Message]]:
        self.seen.append((errand, head, body))
        try:
            if errand.replica is not None and self.gone:
                raise Gone(errand.replica)
            if self.dead:
                raise Gone(self.dead.pop(0))
            if self.waits is not None:
                await self.waits
            for one in self.says:
                if isinstance(one, Exception):
                    raise one
                yield [{**one, "headers": list(one["headers"])} if "headers" in one else one]
        finally:
            self.closed += 1

    async def all(self, head: Head) -> Mapping[str, Sequence[Message]]:
        self.seen.append((Errand(), head, b""))
        if isinstance(self.metrics, Exception):
            raise self.metrics
        return self.metrics


class Reply:
    """What a client got."""

    def __init__(self, messages: Sequence[Message]) -> None:
        start, *rest = messages
        self.status = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        self.text = b"".join(message.get("body", b"") for message in rest).decode()
        self.is_whole = bool(rest) and not rest[-1].get("more_body", False)


Ask = Callable[..., Reply]


@pytest.fixture
def ask(deployment: Deployment) -> Ask:
    """``ask(fleet, method, path, body, headers, keys=…)``: one request through a gateway; ``parts`` is its body in chunks."""

    def make(
        fleet: Fleet,
        method: str = "POST",
        path: str = CHAT,
        body: bytes = b"{}",
        headers: Mapping[str, str] = {},
        *,
        keys: Sequence[str] = (),
        query: bytes = b"",
        max_body: int = 1000,
        parts: Sequence[bytes] | None = None,
    ) -> Reply:
        ring = KeyRing(deployment, [plain_key(key, key) for key in keys])
        gateway = Gateway(ring, max_body, TICKETS, fleet, Crowds(4))
        sent: list[Message] = []
        chunks = [body] if parts is None else list(parts)
        declared = {"content-length": str(len(body))} if parts is None else {}
        named = {**declared, "x-request-id": "req_1", **headers}
        pending = [
            {"type": "http.request", "body": one, "more_body": number < len(chunks)}
            for number, one in enumerate(chunks, 1)
        ]

        async def receive() -> Message:
            return pending.pop(0)

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query,
            "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        }
        asyncio.run(asyncio.wait_for(gateway(scope, receive, send), 10))
        reply = Reply(sent)
        reply.unread = pending  # type: ignore[attr-defined]
        return reply

    return make


def test_an_answer_comes_as_the_replica_gives_it(ask: Ask) -> None:
    fleet = Fleet([START, said(b"data: 1\n\n"), said(b"data: [DONE]\n\n", more=False)])
    reply = ask(fleet, body=b'{"a": 1}', headers={"x-own": "1"})
    assert (reply.status, reply.text, reply.is_whole) == (200, "data: 1\n\ndata: [DONE]\n\n", True)
    ((_, head, body),) = fleet.seen
    assert (head["path"], head["method"], body) == (CHAT, "POST", b'{"a": 1}')
    assert (b"x-own", b"1") in head["headers"]


def test_the_request_id_is_left_to_the_proxy_that_adds_it(ask: Ask) -> None:
    assert "x-request-id" not in ask(Fleet()).headers


def test_alike_requests_have_one_errand_per_key(ask: Ask) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "hello"}]}).encode()
    errands = []
    for key in ("one", "one", "two"):
        fleet = Fleet()
        ask(fleet, body=body, headers={"authorization": f"Bearer {key}"}, keys=["one", "two"])
        errands.append(fleet.seen[0][0])
    assert errands[0] == errands[1] != errands[2]
    owner = plain_key("one", "one").digest.hex()
    assert errands[0] == Errand(likeness(CHAT, None, owner, body).beginning)


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_a_running_id_goes_to_its_replica(ask: Ask, method: str, path: str) -> None:
    fleet = Fleet()
    id = TICKETS.new("chatcmpl-", "replica1")
    ask(fleet, method, f"{path}/{id}")
    assert fleet.seen[0][0] == Errand(id, "replica1")


def test_an_id_that_leads_nowhere_is_refused_by_any_replica_like_every_other(ask: Ask) -> None:
    gone, id = Fleet(gone=True), TICKETS.new("chatcmpl-", "replica1")
    ask(gone, "PATCH", f"{CHAT}/{id}", b'{"preferences": {}}')
    elsewhere = Errand(id, shunned=frozenset({"replica1"}))
    assert [errand for errand, *_ in gone.seen] == [Errand(id, "replica1"), elsewhere]
    assert gone.seen[0][1:] == gone.seen[1][1:]
    forged, id = Fleet(gone=True), f"chatcmpl-{'0' * 64}"
    ask(forged, "GET", f"{CHAT}/{id}")
    assert [errand for errand, *_ in forged.seen] == [Errand(id)]


def test_what_a_replica_does_not_take_goes_on_until_one_does(ask: Ask) -> None:
    fleet = Fleet(dead=["one", "two"])
    assert ask(fleet, body=b'{"prompt_cache_key": "k"}').status == 200
    first, second, third = [errand for errand, *_ in fleet.seen]
    assert first.key == second.key == third.key != ANYWHERE
    assert [one.shunned for one in (first, second, third)] == [set(), {"one"}, {"one", "two"}]
    assert len({body for *_, body in fleet.seen}) == 1
    assert fleet.closed == 3


def test_a_stranger_is_refused_by_a_replica_and_its_body_is_not_read(ask: Ask) -> None:
    fleet = Fleet()
    reply = ask(fleet, body=b"x" * 900, headers={"authorization": "Bearer wrong"}, keys=["right"])
    assert [body for *_, body in fleet.seen] == [b""]
    assert reply.unread  # type: ignore[attr-defined]


def test_of_a_body_that_is_too_long_no_more_is_read_than_shows_it(ask: Ask) -> None:
    declared = Fleet()
    assert ask(declared, body=b"x" * 1001).unread  # type: ignore[attr-defined]
    assert declared.seen[0][2] == b""
    chunked = Fleet()
    reply = ask(chunked, parts=[b"x" * 600] * 5)
    assert chunked.seen[0][2] == b"x" * 1200
    assert len(reply.unread) == 3  # type: ignore[attr-defined]
    fits = Fleet()
    ask(fits, parts=[b"x" * 500] * 2)
    assert fits.seen[0][2] == b"x" * 1000


def test_a_stream_whose_replica_ends_has_one_error_as_its_last_event(ask: Ask) -> None:
    reply = ask(Fleet([START, said(b"data: 1\n\n"), Lost("died")]))
    assert reply.is_whole
    first, last, end = reply.text.split("\n\n")
    assert (first, end) == ("data: 1", "")
    error = json.loads(last.removeprefix("data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("server_error", "engine_dead")


def test_a_stream_of_responses_ends_with_an_error_in_its_own_words(ask: Ask) -> None:
    events = [b"event: response.created\ndata: {}\n\n", b": keep-alive\n\n", b"event: x\ndata: {}\n\n"]
    reply = ask(Fleet([START, *map(said, events), Lost("died")]), path="/v1/responses")
    name, data = reply.text.rstrip("\n").split("\n\n")[-1].split("\n")
    error = json.loads(data.removeprefix("data: "))
    assert (name, error["type"], error["sequence_number"]) == ("event: error", "error", 2)


@pytest.mark.parametrize(
    ("path", "last"),
    [
        (CHAT, b"data: [DONE]\n\n"),
        (CHAT, b'data: {"choices": []}\n\ndata: [DONE]\n\n'),
        (CHAT, b'data: {"error":{"message":"m"}}\n\n'),
        ("/v1/responses", b'event: response.completed\ndata: {"type": "response.completed"}\n\n'),
    ],
)
def test_behind_the_last_event_nothing_is_said_when_the_replica_ends(
    ask: Ask, path: str, last: bytes
) -> None:
    reply = ask(Fleet([START, said(b"data: 1\n\n"), said(last), Lost("died")]), path=path)
    assert (reply.text, reply.is_whole) == ((b"data: 1\n\n" + last).decode(), True)


def test_text_that_looks_like_an_end_is_none(ask: Ask) -> None:
    said_so = said(b'data: {"content": "data: [DONE]\\n\\n {\\"error\\":"}\n\n')
    reply = ask(Fleet([START, said_so, Lost("died")]))
    assert reply.text.count('"code":"engine_dead"') == 1


def test_what_is_no_stream_is_not_made_whole(ask: Ask) -> None:
    start = {**START, "headers": [(b"content-type", b"application/json")]}
    with pytest.raises(Broken):
        ask(Fleet([start, said(b'{"half'), Lost("died")]))


@pytest.mark.parametrize(
    ("fault", "status", "code"), [(Lost("died"), 503, "engine_dead"), (Full(), 429, "queue_full")]
)
def test_a_request_that_got_no_answer_is_refused_in_our_words(
    ask: Ask, fault: Exception, status: int, code: str
) -> None:
    reply = ask(Fleet([fault]))
    assert reply.status == status
    assert int(reply.headers["retry-after"]) > 0
    assert json.loads(reply.text)["error"]["code"] == code


@pytest.mark.parametrize("path", ["/ready", "/health"])
def test_a_probe_does_not_wait_for_a_replica_to_come(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("server.replicas.gateway.PROBE_SECONDS", 0.01)
    fleet = Fleet()
    fleet.waits = asyncio.sleep(60)
    assert ask(fleet, "GET", path).status == 503
    assert fleet.closed == 1


def test_a_request_of_a_crowd_goes_by_its_conversation_as_long_as_it_is_under_way(
    deployment: Deployment,
) -> None:
    """Two of a beginning are many here: the third goes another way, and the next as well, since the crowd was here lately."""

    async def scenario() -> None:
        fleet, crowds, over = Fleet(), Crowds(2), asyncio.Event()
        gateway = Gateway(KeyRing(deployment), 4000, TICKETS, fleet, crowds)

        def asked(question: str) -> bytes:
            system = {"role": "system", "content": "x" * 600}
            return json.dumps({"messages": [system, {"role": "user", "content": question}]}).encode()

        async def ask(question: str) -> None:
            async def receive() -> Message:
                return {"type": "http.request", "body": asked(question), "more_body": False}

            async def send(message: Message) -> None:
                pass

            scope = {"type": "http", "method": "POST", "path": CHAT, "query_string": b"", "headers": []}
            await gateway(scope, receive, send)

        async def waited() -> None:
            await over.wait()

        tasks = []
        for number in range(3):
            fleet.waits = waited()
            tasks.append(asyncio.create_task(ask(str(number))))
            await asyncio.sleep(0.01)
        over.set()
        await asyncio.gather(*tasks)
        like = [likeness(CHAT, None, "", asked(str(number))) for number in range(3)]
        assert [errand.key for errand, *_ in fleet.seen] == [
            like[0].beginning,
            like[0].beginning,
            like[2].conversation,
        ]

    asyncio.run(scenario())


def test_a_client_that_leaves_closes_the_stream_of_its_replica(deployment: Deployment) -> None:
    async def scenario() -> None:
        fleet = Fleet([START])
        fleet.says = [START, said(b"data: 1\n\n")] * 1
        forever = asyncio.Event()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                await forever.wait()

        async def receive() -> Message:
            return {"type": "http.request", "body": b"{}", "more_body": False}

        gateway = Gateway(KeyRing(deployment), 1000, TICKETS, fleet, Crowds(4))
        scope = {"type": "http", "method": "POST", "path": CHAT, "query_string": b"", "headers": []}
        task = asyncio.create_task(gateway(scope, receive, send))
        await asyncio.sleep(0.01)
        assert fleet.closed == 0
        task.cancel()
        await asyncio.wait((task,))
        assert (fleet.closed, task.cancelled()) == (1, True)

    asyncio.run(scenario())


def _exposition(value: int) -> Sequence[Message]:
    start = {**START, "headers": [(b"content-type", b"text/plain")]}
    return [start, said(f"# TYPE a_total counter\na_total {value}\n".encode(), more=False)]


def test_metrics_are_of_all_replicas_by_name_or_added_up(ask: Ask) -> None:
    fleet = Fleet()
    fleet.metrics = {"r1": _exposition(1), "r2": _exposition(2)}
    by_name = ask(fleet, "GET", "/metrics")
    assert 'a_total{replica="r1"} 1.0' in by_name.text
    assert 'a_total{replica="r2"} 2.0' in by_name.text
    assert "a_total 3.0" in ask(fleet, "GET", "/metrics", query=b"replica=all").text


def test_metrics_are_refused_as_a_replica_refuses_them(ask: Ask) -> None:
    fleet = Fleet()
    start = {**START, "status": 401, "headers": [*START["headers"], (b"x-own", b"1")]}
    refusal = [start, said(b'{"error": {}}', more=False)]
    fleet.metrics = {"r1": refusal, "r2": refusal}
    reply = ask(fleet, "GET", "/metrics", keys=["k"])
    assert (reply.status, reply.text) == (401, '{"error": {}}')
    assert reply.headers.keys() == {"content-type", "x-own"}, "the proxy adds the x-request-id"
    fleet.metrics = Lost("none")
    assert ask(fleet, "GET", "/metrics").status == 503
