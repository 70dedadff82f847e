"""The one place that counts and logs requests: a JSON line for each, whatever became of it, and never what was said in it."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.generation import Generation
from server.api.outcome import Outcome, rounded
from server.errors import clip
from server.metrics import Metrics
from server.tracing import Stretch, Trace, Tracing

REQUESTS = logging.getLogger("genarm.requests")
"""Gets the lines."""

PROBES = frozenset({"/health", "/ready", "/metrics"})
"""What supervisors and Prometheus ask all the time: they make no lines and no counts as long as they get what they came for."""

VERBS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

LEFT = 499
"""Stands for the status of a request whose client left before there was one."""


@dataclass(slots=True)
class Record:
    """What is known of one HTTP request; in ``scope["state"]["record"]``.

    ``arrived``: when its head came, on ``time.monotonic()``'s clock. ``status``: of the response, once it begins. ``outcome``:
    once an answer that was under way for it has ended.
    """

    arrived: float = field(default_factory=time.monotonic)
    status: int | None = None
    outcome: Outcome | None = None


class RequestLog:
    """Counts and logs the requests of one server; ``tracing``: where their spans go, if anywhere."""

    def __init__(self, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self._metrics = metrics
        self._tracing = tracing

    def ended(self, generation: Generation) -> None:
        """An answer under way is over; called once for each, before its reader can know."""
        ticket = generation.ticket
        outcome = Outcome(generation, time.monotonic())
        ticket.record.outcome = outcome
        if generation.error:
            self._metrics.failed(outcome.status)
        else:
            self._metrics.succeeded(outcome.reasons, ticket.prompt_tokens, generation.tokens)
        self._metrics.timed(outcome.queued, outcome.first, outcome.gaps, outcome.whole)
        self._metrics.guided(outcome.weights, outcome.kl)

    def refused(self, status: int) -> None:
        """A request is about to be answered with an error, no answer having been under way for it."""
        self._metrics.failed(status)

    def close(self, record: Record, scope: Scope) -> None:
        """The exchange is over: its line, and its span."""
        end, outcome, state = time.monotonic(), record.outcome, scope["state"]
        answered = LEFT if record.status is None else record.status
        error = state.get("error") or (outcome and outcome.generation.error)
        status = outcome.status if outcome and outcome.generation.error else answered
        caller = state.get("caller")
        line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": state.get("request_id"),
            "key": caller.name if caller and caller.owner else None,
            "route": f"{clip(scope['method'])} {clip(scope['path'])}",
            "status": status,
            "code": error and error.code,
            "total_s": rounded(end - record.arrived),
            **(outcome.line if outcome else {}),
        }
        if self._tracing is not None:
            line |= self._tracing.record(_trace(record, scope, end, line), Headers(scope=scope))
        REQUESTS.info(json.dumps(line, ensure_ascii=True))

    def stop(self) -> None:
        """No more requests come."""
        if self._tracing is not None:
            self._tracing.stop()


class LogRequests:
    """Sees every request first and its response last, and has ``log`` know of both."""

    def __init__(self, app: ASGIApp, log: RequestLog) -> None:
        self.app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = Record()
        scope.setdefault("state", {})["record"] = record

        async def send_watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                # Before the client hears of it: who asks for the counts next finds it there.
                if record.status >= 400 and record.outcome is None and not _is_quiet(record, scope):
                    self._log.refused(record.status)
            await send(message)

        try:
            await self.app(scope, receive, send_watched)
        except Exception:
            record.status = 500  # it broke off, whatever its head had said
            raise
        finally:
            if not _is_quiet(record, scope):
                self._log.close(record, scope)


def _is_quiet(record: Record, scope: Scope) -> bool:
    """Whether it is a probe that got what it came for; one without the right key, say, did not."""
    return scope["path"] in PROBES and record.status in (200, 503)


def _trace(record: Record, scope: Scope, end: float, line: dict[str, Any]) -> Trace:
    outcome, route = record.outcome, getattr(scope.get("route"), "path", None)
    # No more names than routes and verbs: backends keep an index of them.
    verb = scope["method"] if scope["method"] in VERBS else "HTTP"
    name = f"{verb} {route}" if route else verb
    attributes = {
        "http.request.method": clip(scope["method"]),
        "http.route": route,
        "http.response.status_code": record.status,
        "error.type": line["code"],
        "genarm.request_id": line["request_id"],
        **(outcome.attributes if outcome else {}),
    }
    return Trace(
        Stretch(name, record.arrived, end),
        outcome.parts if outcome else (),
        {key: value for key, value in attributes.items() if value is not None},
        failed=line["status"] >= 500,
    )
