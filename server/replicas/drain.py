"""The end of all replicas together, as that of one server: nothing new is taken, what runs is finished."""

from __future__ import annotations

import contextlib
import time

from ray import serve
from ray.serve.exceptions import RayServeException

from server.replicas.application import MORE_SECONDS, NAME, REPLICA

REACH_SECONDS = 5.0
"""How long Serve may take to say where the replicas are."""

LAST_WORDS_SECONDS = 1.0
"""How long what was said last may take to its clients."""


def drain(seconds: float) -> None:
    """Returns when nothing is under way any more; what is, ends after ``seconds``.

    Ending Serve alone would not do: it ends its proxies first, and the connections with them.
    """
    handle = serve.get_deployment_handle(REPLICA, NAME).options(method_name="drain")
    deadline = time.monotonic() + REACH_SECONDS
    while not handle.running_replicas_populated() and time.monotonic() < deadline:
        time.sleep(0.02)
    with contextlib.suppress(RayServeException, TimeoutError):  # there is none, or one stands still
        handle.broadcast("drain", seconds).results(timeout_s=seconds + MORE_SECONDS, return_exceptions=True)
    time.sleep(LAST_WORDS_SECONDS)
