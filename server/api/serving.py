"""The state of one server that routes share: what is deployed, in which phase of its life it is, who is
being answered.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from arm_models.errors import UserError
from server.access import KeyRing
from server.api.admin.changes import RewardChanges
from server.api.body import BodyThread
from server.api.dispatcher import Dispatcher
from server.api.ids import NewId, random_id
from server.api.places import Places
from server.api.quota import Quota
from server.api.request_log import RequestLog
from server.api.served import Served, Succession
from server.config import Deployment
from server.decoding import Roster
from server.errors import Unavailable
from server.metrics import Metrics
from server.runtime import Load, Runtime
from server.structured import GrammarCompiler
from server.text import TokenizerThread
from server.tracing import Tracing

T = TypeVar("T")

LOG = logging.getLogger("genarm")


class Phase(StrEnum):
    """loading → ready → draining; dead from anywhere."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    DEAD = "dead"


class Serving:
    """A server from the start of loading to its end; lives on one event loop.

    Args:
        deployment: what is served.
        load: how its models are loaded, in a thread of its own.
        keys: who may use it.
        on_ready: called on the loop once requests are taken.
        on_dead: called on the loop, once, with what made serving impossible.
        new_id: makes the ids of answers.
        quota: what keys have on other servers; None: there are none.
        is_fixed: rewards cannot be changed at run time.

    Raises:
        UserError: something that ``deployment`` needs is not installed.
    """

    def __init__(
        self,
        deployment: Deployment,
        load: Load,
        keys: KeyRing,
        on_ready: Callable[[], None] = lambda: None,
        on_dead: Callable[[BaseException], None] = lambda _: None,
        *,
        new_id: NewId = random_id,
        quota: Quota | None = None,
        is_fixed: bool = False,
    ) -> None:
        self.succession = Succession(Served(deployment, Roster.of(deployment)))
        self.rewards = RewardChanges(
            self.succession, lambda: self.runtime, lambda: self.dispatcher.engine, keys, is_fixed=is_fixed
        )
        self.new_id = new_id
        self._quota = quota
        self.phase = Phase.LOADING
        self.started = int(time.time())
        self.metrics = Metrics(deployment.model)
        endpoint = deployment.otlp_endpoint
        self.requests = RequestLog(self.metrics, None if endpoint is None else Tracing(endpoint))
        self._load = load
        self._on_ready = on_ready
        self._on_dead = on_dead
        self._keys = keys
        self._dispatcher: Dispatcher | None = None
        self._bodies: BodyThread | None = None
        self._tokenizers: TokenizerThread | None = None
        self._grammars: GrammarCompiler | None = None

    def begin(self) -> None:
        """Starts to load in the background; call it on the event loop."""
        http, loop = self.deployment.http, asyncio.get_running_loop()
        capacity = self.deployment.engine.max_sequences + http.max_queue
        self._bodies = BodyThread(capacity)
        self._tokenizers = TokenizerThread(capacity)
        places = Places(capacity, http.max_queue_tokens, self._share)
        dispatcher = Dispatcher(
            places, http, self.requests.ended, self._die, self.succession.enter, self._quota
        )
        self._dispatcher = dispatcher
        self.metrics.observe(dispatcher)

        def load() -> None:
            try:
                runtime = self._load(self.deployment, LOG.info)
            except UserError as error:
                _call(loop, self._die, error)
            except BaseException as error:
                LOG.exception("the models cannot be loaded")
                _call(loop, self._die, error)
            else:
                _call(loop, self._open, runtime)

        # A daemon, so that a signal while loading ends the process at once.
        threading.Thread(target=load, name="loading", daemon=True).start()

    def end(self) -> None:
        """Stops the engine and the threads beside it; the last traces go out."""
        if self.phase is not Phase.DEAD:
            self.phase = Phase.DRAINING
        self.dispatcher.fail_all(lambda: Unavailable("The server is shutting down.", retry_after=5))
        self.dispatcher.detach()
        if self._bodies is not None:
            self._bodies.stop()
        if self._tokenizers is not None:
            self._tokenizers.stop()
        if self._grammars is not None:
            self._grammars.stop()
        self.requests.stop()

    async def drain(self, seconds: float) -> None:
        """Takes no new requests; returns when the running ones have ended, at the latest after ``seconds``."""
        if self.phase is not Phase.DEAD:
            self.phase = Phase.DRAINING
        if self._dispatcher is None:
            return  # a signal came before the server had begun
        try:
            await asyncio.wait_for(self.dispatcher.idle(), seconds)
        except TimeoutError:
            LOG.warning("%s s to drain are over; what still runs is ended", f"{seconds:g}")
            self.dispatcher.fail_all(lambda: Unavailable("The server is shutting down.", retry_after=5))

    def fail(self, error: Exception) -> None:
        """Serving has become impossible for a reason outside the engine; on the loop."""
        if self.phase is Phase.DEAD:
            return
        if self._dispatcher is None:
            self._die(error)
        else:
            self._dispatcher.lose(error)

    @property
    def deployment(self) -> Deployment:
        """What is served now."""
        return self.succession.now.deployment

    @property
    def roster(self) -> Roster:
        """Its models by role. A request that is under way has the one that it began with."""
        return self.succession.now.roster

    @property
    def dispatcher(self) -> Dispatcher:
        """Hands sequences to the engine; there from ``begin`` on."""
        assert self._dispatcher is not None, "begin() comes first"
        return self._dispatcher

    @property
    def bodies(self) -> BodyThread:
        """The thread that reads large bodies; there from ``begin`` on."""
        assert self._bodies is not None, "begin() comes first"
        return self._bodies

    @property
    def tokenizers(self) -> TokenizerThread:
        """The thread that tokenizes; there from ``begin`` on."""
        assert self._tokenizers is not None, "begin() comes first"
        return self._tokenizers

    @property
    def grammars(self) -> GrammarCompiler:
        """What compiles the forms that answers must have; raises Unavailable before models are loaded."""
        if self._grammars is None:
            runtime = self.runtime
            vocabulary = runtime.tokenizer.vocabulary(runtime.vocab_size, runtime.eos_ids)
            self._grammars = GrammarCompiler(vocabulary)
        return self._grammars

    @property
    def runtime(self) -> Runtime:
        """The loaded models; raises Unavailable unless new requests are taken."""
        runtime = self.succession.now.runtime
        if self.phase is not Phase.READY or runtime is None:
            raise Unavailable(f"The server is {self.phase.value}.", code=self.phase.value, retry_after=5)
        return runtime

    def _share(self) -> float:
        """Of what others leave of the queue, what one key may take."""
        return self.deployment.http.key_share if self._keys.has_several() else 1.0

    def _open(self, runtime: Runtime) -> None:
        if self.phase is not Phase.LOADING:
            return
        self.succession.follow(replace(self.succession.now, runtime=runtime))
        dispatcher = self.dispatcher
        dispatcher.attach(runtime.make_engine(dispatcher.on_outputs, dispatcher.on_death))
        self.phase = Phase.READY
        self._on_ready()

    def _die(self, error: BaseException) -> None:
        if self.phase is Phase.DEAD:
            return
        self.phase = Phase.DEAD
        if not isinstance(error, UserError):
            LOG.error("the server cannot serve any more: %s: %s", type(error).__name__, error)
        self._on_dead(error)


def serving(request: Request) -> Serving:
    """The server a request came to."""
    state: Serving = request.app.state.serving
    return state


Server = Annotated[Serving, Depends(serving)]
"""A route's parameter that receives the server's state."""


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[T], None], argument: T) -> None:
    """``function(argument)`` on the loop, unless the server ended while its models were loading."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, argument)
