"""Servers on loopback for tests: the real engine on tiny checkpoints, or an engine that does what the test says."""

import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from transformers import PreTrainedTokenizerFast

from arm_models.loading import common_fingerprint
from server.access import KeyEntry, KeyRing, plain_key
from server.api.connection import UVICORN
from server.api.serving import Phase, Serving
from server.app import create_app
from server.config import Deployment, MemberSettings, read_deployment
from server.decoding import Roster
from server.engine import (
    CandidateScoring,
    EngineDead,
    EngineStats,
    Member,
    SequenceRequest,
    TokenLogprobs,
    TokenOutput,
    TokenReport,
)
from server.engine.speculation.pace import Offer, Pace, Plan
from server.joining import Joined, Part
from server.runtime import Load, Runtime, load_runtime
from server.text import ChatTokenizer

OTHER_TEMPLATE = (
    "Grade this:{% for message in messages %} {{ message.role }} says {{ message.content }};{% endfor %}"
)


_OPTIONS = ("keys", "on_dead", "prepare", "new_id", "quota", "is_fixed")
"""Of a scripted server, what is no section of its deployment."""


class ScriptedEngine:
    """Stands in for EngineThread: speaks ``script`` one token at a time, but only as far as the test lets it.

    ``allow(n)`` lets every sequence have n more tokens; ``free()`` ends all waiting. ``kill()`` is the death of an engine.
    """

    def __init__(
        self,
        script: list[int],
        on_outputs: Callable[[list[TokenOutput]], None],
        on_death: Callable[[BaseException], None],
    ) -> None:
        self.script = script
        self.alive = False
        self.requests: dict[str, SequenceRequest] = {}
        self.finished: list[str] = []
        self.aborted: list[str] = []
        self.released: list[str] = []
        self.mixes: list[Mapping[str, float]] = []
        self.members: list[str] = []  # those that came later
        self.reading: list[str] = []  # whose prompts are being read
        self._spoken: dict[str, int] = {}
        self._allowed = 0
        self._on_outputs = on_outputs
        self._on_death = on_death
        self._lock = threading.RLock()

    @property
    def stats(self) -> EngineStats:
        return EngineStats(len(self._spoken), 0, 0, 0, {"base": 0.5})

    def start(self) -> None:
        self.alive = True

    def stop(self, timeout: float | None = None) -> bool:  # noqa: ARG002
        self.alive = False
        return True

    def add(self, *requests: SequenceRequest) -> "Future[None]":
        with self._lock:
            for request in requests:
                self.requests[request.id] = request
                self.mixes.append(dict(request.mix))
                self._spoken[request.id] = 0
            future: Future[None] = Future()
            future.set_result(None)
            self._speak()
        return future

    def change(
        self,
        sequence_ids: Sequence[str],
        mix: Mapping[str, float],
        conditions: Mapping[str, tuple[float, ...]] | None = None,  # noqa: ARG002
        candidates: CandidateScoring | None = None,  # noqa: ARG002
    ) -> "Future[dict[str, int]]":
        future: Future[dict[str, int]] = Future()
        with self._lock:
            if not self.alive:
                future.set_exception(EngineDead("dead"))
                return future
            running = {one: self._spoken[one] for one in sequence_ids if one in self._spoken}
            if running:
                self.mixes.append(dict(mix))
            future.set_result(running)
        return future

    def abort(self, sequence_id: str) -> "Future[None]":
        future: Future[None] = Future()
        future.set_result(None)
        with self._lock:
            if self._spoken.pop(sequence_id, None) is not None:
                self.aborted.append(sequence_id)
        return future

    def has_begun(self, prefix: str) -> "Future[bool]":
        future: Future[bool] = Future()
        future.set_result(any(one.startswith(prefix) for one in self.reading))
        return future

    def release(self, sequence_ids: Sequence[str]) -> "Future[None]":
        future: Future[None] = Future()
        future.set_result(None)
        with self._lock:
            self.released.extend(sequence_ids)
        return future

    def add_members(self, members: Sequence[Member]) -> "Future[None]":
        future: Future[None] = Future()
        future.set_result(None)
        with self._lock:
            self.members.extend(member.name for member in members)
        return future

    def remove_members(self, names: Collection[str]) -> "Future[None]":
        future: Future[None] = Future()
        future.set_result(None)
        with self._lock:
            self.members.extend(f"-{name}" for name in names)
        return future

    def allow(self, tokens: int) -> None:
        with self._lock:
            self._allowed += tokens
            self._speak()

    def free(self) -> None:
        self.allow(10**9)

    def kill(self) -> None:
        with self._lock:
            self.alive = False
            outputs = [TokenOutput(one, spoken, -1, "error", "boom") for one, spoken in self._spoken.items()]
            self._on_outputs(outputs)
            self._on_death(RuntimeError("/secret/path: boom"))

    def _speak(self) -> None:
        while outputs := [self._next(one) for one, spoken in self._spoken.items() if spoken < self._allowed]:
            for output in outputs:
                self._spoken[output.id] += 1
                if output.finish_reason is not None:
                    del self._spoken[output.id]
                    self.finished.append(output.id)
            self._on_outputs(outputs)

    def _next(self, sequence_id: str) -> TokenOutput:
        request = self.requests[sequence_id]
        sampling = request.sampling
        index = self._spoken[sequence_id]
        read = None
        if index == 0 and sampling.prompt_logprobs is not None:
            read = (None, *(TokenLogprobs(-0.5, ()) for _ in request.prompts["base"][1:]))
        if sampling.max_tokens == 0:
            return TokenOutput(sequence_id, 0, -1, "length", prompt_logprobs=read)
        token = self.script[index % len(self.script)]
        logprobs = None if sampling.logprobs is None else TokenLogprobs(-1.0 - index, ())
        report = TokenReport(0.25, -2.0, token, token, {"helpful": -1.0}) if request.report else None
        reason = "stop" if token in sampling.stop_token_ids else None
        if reason is None and index + 1 == sampling.max_tokens:
            reason = "length"
        queued = 0.5 if index == 0 else None
        return TokenOutput(sequence_id, index, token, reason, None, logprobs, read, report, queued=queued)


class SteadyPace:
    """Guesses whatever it costs: the first offer, ``length`` tokens ahead; with ``seed`` any offer and any number up to that."""

    def __init__(self, length: int, seed: int | None = None) -> None:
        self._length = length
        self._rng = None if seed is None else random.Random(seed)

    def begin(self) -> None:
        """Nothing is measured."""

    def considers(self, rows: int, members: frozenset[str], *, plain: bool) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def choose(self, offers: Sequence[Offer]) -> Plan:
        """See the class."""
        if self._rng is None:
            return Plan(offers[0], tuple(min(most, self._length) for most in offers[0].most))
        offer = self._rng.choice(offers)
        return Plan(offer, tuple(self._rng.randint(0, min(most, self._length)) for most in offer.most))

    def guessed(self, rows: int) -> None:
        """Nothing is measured."""

    def end(self, rows: int, drawn: int) -> None:
        """Nothing is measured."""

    def forget(self, member: str) -> None:
        """Nothing is known."""


@pytest.fixture(scope="session")
def steady() -> Callable[..., Pace]:
    """Makes a pace that guesses in every step."""
    return SteadyPace


@dataclass
class Live:
    """A server that listens: its address, its state, and for scripted ones its engines."""

    url: str
    serving: Serving
    server: uvicorn.Server
    engines: list[ScriptedEngine]

    @property
    def engine(self) -> ScriptedEngine:
        return self.engines[-1]

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, headers=headers)

    def chat(self, **fields: Any) -> httpx.Response:
        """One request that does not stream; ``model`` and ``messages`` are filled in."""
        with self.client() as client:
            return client.post("/v1/chat/completions", json=self.body(**fields))

    def complete(self, prompt: Any, **fields: Any) -> httpx.Response:
        """One completion that does not stream."""
        model = self.serving.deployment.model
        with self.client() as client:
            return client.post("/v1/completions", json={"model": model, "prompt": prompt, **fields})

    def stream_completion(self, prompt: Any, **fields: Any) -> "list[dict[str, Any]]":
        """The chunks of one streamed completion; asserts that it ended with [DONE]."""
        response = self.complete(prompt, stream=True, **fields)
        assert response.status_code == 200, response.text
        chunks = [_event(line) for line in response.text.split("\n") if line.startswith("data: ")]
        assert chunks[-1] == "[DONE]"
        return chunks[:-1]

    def body(self, **fields: Any) -> dict[str, Any]:
        default = {"model": self.serving.deployment.model, "messages": [{"role": "user", "content": "hello"}]}
        return {**default, **fields}

    def stream(self, **fields: Any) -> "list[dict[str, Any]]":
        """The chunks of one stream; asserts that it ended with [DONE]."""
        with self.client() as client, self.open(client, **fields) as events:
            chunks = list(events)
        assert chunks[-1] == "[DONE]"
        return chunks[:-1]

    @contextlib.contextmanager
    def open(self, client: httpx.Client, **fields: Any) -> Iterator[Iterator[Any]]:
        """A stream under way: its events as they come, "[DONE]" among them."""
        body = self.body(stream=True, **fields)
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            yield (_event(line) for line in response.iter_lines() if line.startswith("data: "))


def _event(line: str) -> Any:
    data = line.removeprefix("data: ")
    return data if data == "[DONE]" else json.loads(data)


@contextlib.contextmanager
def live(
    deployment: Deployment,
    load: Load,
    wait: bool = True,
    keys: Sequence[str | KeyEntry] = (),
    prepare: Callable[[FastAPI], object] = lambda _: None,
    **options: Any,
) -> Iterator[Live]:
    """Runs the app in a thread with a real uvicorn on a free port; ``prepare`` is called on it first."""
    entries = [plain_key(key, f"key-{key}") if isinstance(key, str) else key for key in keys]
    app = create_app(deployment, load=load, keys=KeyRing(deployment, entries), **options)
    prepare(app)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, **UVICORN, log_level="error", access_log=False, timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    serving: Serving = app.state.serving
    try:
        until(lambda: server.started and (not wait or serving.phase is not Phase.LOADING), 60)
        host, port = listening.getsockname()[:2]
        yield Live(f"http://{host}:{port}", serving, server, [])
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive()


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Waits for ``condition``; fails when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def alike(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, fractions up to the rounding that batches of other sizes bring."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 1e-4
    return bool(type(one) is type(other) and one == other)


@pytest.fixture(scope="session", name="alike")
def alike_fixture() -> Callable[[Any, Any], bool]:
    return alike


@pytest.fixture(scope="session", name="until")
def until_fixture() -> Callable[..., None]:
    return until


@pytest.fixture(scope="session")
def declared(make_checkpoint: Callable[..., Path]) -> dict[str, Any]:
    """A deployment of tiny random models: a Llama base, two rewards, one of which reads another template."""
    return {
        "model": "tiny",
        "base": {"model": str(make_checkpoint("llama", "served-base", seed=1))},
        "rewards": [
            {
                "name": "helpful",
                "model": str(make_checkpoint("llama", "served-helpful", seed=2)),
                "description": "helps",
                "default": 1.0,
            },
            {
                "name": "harmless",
                "model": str(make_checkpoint("qwen3", "served-harmless", seed=3, template=OTHER_TEMPLATE)),
                "default": 0.5,
                "range": [-1.0, 3.0],
            },
        ],
        "presets": {"kind": {"harmless": 2.0}, "plain": {}},
    }


@pytest.fixture(scope="session")
def deployment(declared: dict[str, Any]) -> Deployment:
    return read_deployment(declared, "test")


@pytest.fixture(scope="session")
def real(deployment: Deployment) -> Iterator[Live]:
    """A server on the real engine; shared, so leave nothing running."""
    with live(deployment, load_runtime) as server:
        assert server.serving.phase is Phase.READY
        yield server


@pytest.fixture(scope="session")
def serve() -> Callable[..., contextlib.AbstractContextManager[Live]]:
    """``serve(deployment, load, keys=…)``: a server of one's own."""
    return live


@pytest.fixture(scope="session")
def scripted(
    deployment: Deployment, tiny_tokenizer: PreTrainedTokenizerFast
) -> Callable[..., contextlib.AbstractContextManager[Live]]:
    """``scripted("text", http={…})``: a server whose engine speaks this text over and over; ``.engine`` controls it.

    ``join``: what becomes of models that are to join it; otherwise any does.
    """

    @contextlib.contextmanager
    def make(text: str = "abc ", **sections: Any) -> Iterator[Live]:
        changed = deployment.model_dump()
        options = {name: sections.pop(name) for name in _OPTIONS if name in sections}
        join = sections.pop("join", None)
        for name, fields in sections.items():
            changed[name] = (
                {**changed[name], **fields} if isinstance(fields, dict) and changed[name] else fields
            )
        engines: list[ScriptedEngine] = []
        script = tiny_tokenizer.encode(text, add_special_tokens=False)

        def load(read: Deployment, __: Callable[[str], None]) -> Runtime:
            roster = Roster.of(read)
            contexts = dict.fromkeys(roster.members, 256)
            tokenizers = dict.fromkeys(roster.settings, tiny_tokenizer)

            def joined(settings: Mapping[str, MemberSettings], _: Mapping[str, Part]) -> Joined:
                members: Any = tuple(SimpleNamespace(name=name) for name in settings)
                parts = {name: Part(own.model, 0, "cpu") for name, own in settings.items()}
                return Joined(
                    members, dict.fromkeys(settings, tiny_tokenizer), dict.fromkeys(settings, 256), parts
                )

            def make_engine(*callbacks: Any) -> ScriptedEngine:
                engines.append(ScriptedEngine(script, *callbacks))
                return engines[-1]

            return Runtime(
                tokenizer=ChatTokenizer(tokenizers, contexts),
                eos_ids=frozenset({0}),
                max_context=contexts,
                vocab_size=len(tiny_tokenizer),
                fingerprint=common_fingerprint({name: own.model for name, own in roster.settings.items()}),
                make_engine=make_engine,
                parts={name: Part(own.model, 0, "cpu") for name, own in roster.settings.items()},
                join=joined if join is None else partial(join, joined),
            )

        with live(read_deployment(changed, "test"), load, **options) as server:
            server.engines = engines
            yield server

    return make
