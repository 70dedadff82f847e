"""What Serve's own processes read from the environment of their node, which has to be there before Ray is started."""

from __future__ import annotations

from collections.abc import Mapping

from server.replicas.doorway import CALLBACK, VARIABLE

ENVIRONMENT: Mapping[str, str] = {
    VARIABLE: CALLBACK,
    # Between proxy and gateway a token takes less CPU than through Ray's object store.
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    # The controller does not wait for the requests of a replica that does not answer any more.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
}
"""As in the image of ``deploy/ray/Dockerfile``."""
