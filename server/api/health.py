"""For supervisors and operators: is the process alive, does it take requests, what does it count."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from server.api.serving import Phase, Server
from server.errors import Unavailable
from server.metrics import CONTENT_TYPE

router = APIRouter()


@router.get("/health")
@router.head("/health", include_in_schema=False)
async def health(server: Server) -> dict[str, str]:
    """200 while the process can still serve; 503 once it must be restarted."""
    if server.phase is Phase.DEAD:
        raise Unavailable("The engine is dead; the process must be restarted.", code="dead", retry_after=5)
    return {"status": "ok"}


@router.get("/ready")
@router.head("/ready", include_in_schema=False)
async def ready(server: Server) -> dict[str, str]:
    """200 while requests are taken; 503 while loading, draining or dead."""
    _ = server.runtime
    return {"status": "ready"}


@router.get("/metrics", response_class=PlainTextResponse)
@router.head("/metrics", include_in_schema=False)
async def metrics(server: Server) -> Response:
    """Prometheus' text format."""
    return Response(server.metrics.text(), media_type=CONTENT_TYPE)
