"""A process of a group other than rank 0: it loads its share of the models and does as rank 0 says until that dismisses it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from arm_models.errors import UserError
from server.config import Deployment
from server.group.seat import Seat
from server.runtime import load_follower

if TYPE_CHECKING:
    from server.engine.sharding.lifeline import LastWords
    from server.engine.sharding.ranks import Ranks

LOG = logging.getLogger("genarm")

BEFORE_TRACE = 0.5
"""Seconds until a failure is written down; rank 0 says its own last words for longer."""

PATIENCE = 10.0
"""Seconds that rank 0 has to dismiss a process that has said its last words."""


def follow(deployment: Deployment, seat: Seat) -> int:
    """Serves rank 0 until the group ends; then ends the process, with code 0 when it was dismissed.

    Raises:
        UserError: the others cannot be met.
    """
    ranks = seat.join(
        deployment.base.device,
        lambda lifeline: lifeline.watch(lambda _, words: _orphaned(seat, words), _dismissed),
    )
    # Rank 0 hears signals for the group: a terminal's Ctrl-C, and torchrun's SIGTERM, come to all at once.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        follower = load_follower(deployment, lambda _: None, ranks)
        ranks.lifeline.loaded()
        follower.run()
    except UserError as error:
        _say(ranks, str(error), user=True)
    except Exception as error:
        _say(ranks, f"{type(error).__name__}: {error}", user=False)
        threading.Event().wait(
            BEFORE_TRACE
        )  # if rank 0 is gone, that is the reason, and the process ends here
        LOG.exception("rank %d failed", seat.rank)
    threading.Event().wait(PATIENCE)
    os._exit(1)


def _say(ranks: Ranks, message: str, *, user: bool) -> None:
    from server.engine.sharding.lifeline import LastWords

    ranks.lifeline.say(LastWords(message, user))


def _dismissed() -> None:
    # It may wait in the middle of a collective, for ever.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _orphaned(seat: Seat, words: LastWords | None) -> None:
    how = "rank 0 is gone" if words is None else f"rank 0: {words.message}"
    print(f"genarm: rank {seat.rank}: {how}; the group ends", file=sys.stderr, flush=True)
    os._exit(1)
