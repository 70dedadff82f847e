"""Which process of a group this is, as torchrun (or :mod:`server.group.launch`) says it in the environment. Knows no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arm_models.errors import UserError

if TYPE_CHECKING:
    from server.engine.sharding.lifeline import Lifeline
    from server.engine.sharding.ranks import Ranks


LISTENING = "GENARM_LISTENING"
"""Names, in rank 0's environment, the socket on which it meets the others, where that has been made for it."""


@dataclass(frozen=True, slots=True)
class Seat:
    """Process ``rank`` of ``size``, ``local_rank`` of those on its machine; rank 0 is reached at ``host``, and meets the others
    at the socket ``listening``, if there is one already.
    """

    rank: int
    size: int
    local_rank: int
    host: str
    listening: int | None = None

    @classmethod
    def of(cls, processes: int, environment: Mapping[str, str] = os.environ) -> Seat | None:
        """The seat in a group of ``processes``; None in a process that is on its own.

        Raises:
            UserError: the environment makes no sense, or speaks of another number of processes.
        """
        if "WORLD_SIZE" not in environment or "RANK" not in environment:
            return None
        try:
            rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
            local = int(environment.get("LOCAL_RANK", rank))
            listening = int(environment[LISTENING]) if LISTENING in environment else None
        except ValueError:
            raise UserError(
                "RANK, WORLD_SIZE and LOCAL_RANK in the environment must be whole numbers"
            ) from None
        if not 0 <= rank < size:
            raise UserError(f"RANK in the environment is {rank}, but WORLD_SIZE is {size}")
        if size != processes:
            raise UserError(
                f"{size} processes were started (WORLD_SIZE), but base.tensor_parallel is {processes}"
            )
        if size == 1:
            return None
        return cls(rank, size, local, environment.get("MASTER_ADDR", "127.0.0.1"), listening)

    def join(self, device: str, watch: Callable[[Lifeline], None]) -> Ranks:
        """Meet the others, for a base on ``device`` ("cpu" or "cuda"); waits until all are there. ``watch`` begins to look who is
        still there. Raises UserError."""
        from server.engine.sharding.ranks import Ranks

        return Ranks.join(
            device,
            rank=self.rank,
            size=self.size,
            local_rank=self.local_rank,
            host=self.host,
            listening=self.listening,
            watch=watch,
        )
