"""OpenTelemetry: a span per request with the parts of its life below it, sent to an OTLP collector over HTTP.

Nothing of OpenTelemetry is imported before there is an endpoint to send to; it comes with the extra ``otel``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from arm_models.errors import UserError

PATH = "/v1/traces"
"""Where a collector takes traces, below its address."""

EXPORT_SECONDS = 5.0
"""What one delivery to the collector may take."""

LAST_SECONDS = 3.0
"""What the last delivery may hold up the end of the process."""


UNNAMED = "unknown_service"
"""What OpenTelemetry calls a service that its variables give no name."""


@dataclass(frozen=True)
class Stretch:
    """A named stretch of time, from and to a moment on ``time.monotonic()``'s clock."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True)
class Trace:
    """One request as a span: ``parts`` are its children, ``failed`` says that the server is to blame for how it ended."""

    whole: Stretch
    parts: Sequence[Stretch] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    failed: bool = False


class Tracing:
    """Sends traces to the collector at ``endpoint``, in a thread of its own; what the collector does not take is lost.

    ``endpoint`` is its address (``http://localhost:4318``) or the whole URL that takes traces. OpenTelemetry's variables for
    headers, certificates, resources and sampling hold.

    Raises:
        UserError: the extra is not installed.
    """

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise UserError(
                f"otlp_endpoint: traces need OpenTelemetry ({error.name} is missing): pip install 'genarm[otel]'"
            ) from None
        version = metadata.version("genarm")
        resource = Resource.create({"service.version": version})
        if str(resource.attributes.get("service.name", UNNAMED)).startswith(UNNAMED):
            resource = resource.merge(Resource({"service.name": "genarm"}))
        url = endpoint if endpoint.endswith(PATH) else endpoint.rstrip("/") + PATH
        exporter = OTLPSpanExporter(endpoint=url, timeout=EXPORT_SECONDS)
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("genarm", version)
        self._propagator = TraceContextTextMapPropagator()
        self._api = trace

    def record(self, trace: Trace, headers: Mapping[str, str]) -> dict[str, str]:
        """Sends ``trace``, as a part of the caller's own where ``headers`` have a ``traceparent``.

        Returns:
            ``trace_id`` and ``span_id`` in hexadecimal, as they stand in a ``traceparent``.
        """
        api, clock = self._api, _Clock()
        context = self._propagator.extract(dict(headers))
        span = self._tracer.start_span(
            trace.whole.name,
            context=context,
            kind=api.SpanKind.SERVER,
            attributes=dict(trace.attributes),
            start_time=clock.epoch(trace.whole.begin),
        )
        inside = api.set_span_in_context(span, context)
        for part in trace.parts:
            child = self._tracer.start_span(part.name, context=inside, start_time=clock.epoch(part.begin))
            child.end(clock.epoch(part.end))
        if trace.failed:
            span.set_status(api.Status(api.StatusCode.ERROR))
        span.end(clock.epoch(trace.whole.end))
        ids = span.get_span_context()
        return {"trace_id": f"{ids.trace_id:032x}", "span_id": f"{ids.span_id:016x}"}

    def stop(self) -> None:
        """Delivers what there is, for ``LAST_SECONDS`` at most: a collector that hangs does not keep the process."""
        last = threading.Thread(target=self._provider.shutdown, name="last traces", daemon=True)
        last.start()
        last.join(LAST_SECONDS)


class _Clock:
    """From ``time.monotonic()`` to the time of day, by one look at both: equal moments stay equal."""

    def __init__(self) -> None:
        self._ahead = time.time_ns() - int(time.monotonic() * 1e9)

    def epoch(self, moment: float) -> int:
        """Nanoseconds since 1970 of a moment on the first."""
        return self._ahead + int(moment * 1e9)
