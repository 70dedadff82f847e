"""Rank 0 of a group: its server loads together with the others, and ends when one of them does."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from arm_models.errors import UserError
from server.config import HANG_SECONDS, Deployment
from server.group.seat import Seat
from server.runtime import Runtime, load_runtime

if TYPE_CHECKING:
    from server.engine.sharding.lifeline import LastWords, Lifeline
    from server.engine.sharding.watch import Watch

LAST_SECONDS = 6.0
"""How long the server may take to tell its clients that a process is gone; a device that waits for that process may hang."""


def lead_to_the_end(serve: Callable[[], int]) -> NoReturn:
    """Runs the server of rank 0 and ends the process with its exit code, as the command would. Of torch nothing is taken down: a
    thread that waits for another process would have to be waited for.
    """
    try:
        code = serve()
    except UserError as error:
        print(f"genarm: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Lead:
    """Rank 0's hold on the others.

    ``on_broken`` is called, from any thread and perhaps more than once, with what ended the group.
    """

    def __init__(self, seat: Seat, on_broken: Callable[[Exception], None]) -> None:
        self._seat = seat
        self._on_broken = on_broken
        self._lifeline: Lifeline | None = None
        self._watch: Watch | None = None
        self._leaving = False

    def load(self, deployment: Deployment, progress: Callable[[str], None]) -> Runtime:
        """A :data:`server.runtime.Load`: meets the others first."""
        from server.engine.sharding.watch import Watch

        ranks = self._seat.join(deployment.base.device, self._listen)
        most = deployment.base.hang_seconds or HANG_SECONDS
        self._watch = Watch(most, lambda: self._break(f"a process hangs: no end of a step in {most:g} s"))
        self._watch.start()
        runtime = load_runtime(deployment, progress, ranks, self._watch.over)
        ranks.lifeline.loaded()
        return runtime

    def leave(self) -> None:
        """The server has ended: so do the others."""
        self._leaving = True
        if self._watch is not None:
            self._watch.stop()
        if self._lifeline is not None:
            self._lifeline.dismiss()

    def _listen(self, lifeline: Lifeline) -> None:
        self._lifeline = lifeline
        lifeline.watch(self._ended)

    def _ended(self, rank: int, words: LastWords | None) -> None:
        message = f"rank {rank} is gone" if words is None else f"rank {rank}: {words.message}"
        self._break(message, user=words is not None and words.user)

    def _break(self, message: str, *, user: bool = False) -> None:
        """The group cannot go on. ``user``: by what the user did wrong, which is said as such."""
        if self._leaving:
            return
        if user:
            self._on_broken(UserError(message))
        else:
            print(f"genarm: {message}; the group ends", file=sys.stderr, flush=True)
            self._on_broken(RuntimeError(message))
        last = threading.Timer(LAST_SECONDS, os._exit, (1,))
        last.daemon = True
        last.start()
