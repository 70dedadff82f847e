"""Replicas that share a machine: what their steps take beside each other.

A step of ``s`` seconds alone takes longer where others run beside it, for two reasons that are measured apart:

- memory and caches are shared: with ``b`` replicas busy every step takes ``beside[b − 1]`` times as long;
- cores are: beside the engines' threads, tokens have to be sent and read (``token_seconds`` of CPU each, ``request_seconds`` for
  each request). The ``b`` steps and what goes with them are ``b · (s + o)`` seconds of work, ``o`` for what their tokens and
  requests ask for; ``cores`` do no more than so much of it a second, and no step is faster than alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Host:
    """A machine for ``replicas`` replicas.

    Attributes:
        replicas: on one machine; the n-th machine has those numbered n · replicas and up.
        cores: for steps and for what goes with them; None: never short.
        beside: by how many are busy, from 1 on, how many times as long a step takes as alone.
        token_seconds, request_seconds: CPU beside the steps, of a token and of a request: the server's, and the client's where
            that is on the same machine.
        arrival_seconds: from a request's arrival to the engine that could start it; waiting, not work.

    Raises:
        ValueError: a number is out of range, or ``beside`` does not say something for each number of busy replicas.
    """

    replicas: int = 1
    cores: float | None = None
    beside: Sequence[float] = (1.0,)
    token_seconds: float = 0.0
    request_seconds: float = 0.0
    arrival_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.replicas < 1 or len(self.beside) < self.replicas:
            raise ValueError(f"beside has {len(self.beside)} numbers for up to {self.replicas} busy replicas")
        if min(self.beside) < 1 or (self.cores is not None and not self.cores > 0):
            raise ValueError("beside must be at least 1, cores above 0")
        if min(self.token_seconds, self.request_seconds, self.arrival_seconds) < 0:
            raise ValueError("seconds must not be negative")

    @property
    def shared(self) -> bool:
        """Whether a step's time depends on who else is busy."""
        return self.replicas > 1

    def duration(self, seconds: float, tokens: int, requests: float, busy: int) -> float:
        """Seconds of a step that takes ``seconds`` alone, draws ``tokens`` and starts ``requests``, with ``busy`` replicas, this
        one counted."""
        slowed = seconds * self.beside[busy - 1]
        if self.cores is None:
            return slowed
        beside = tokens * self.token_seconds + requests * self.request_seconds
        return max(slowed, busy * (slowed + beside) / self.cores)

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self) | {"beside": list(self.beside)}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Host":
        """From a file. Raises ``TypeError`` or ``ValueError`` where it is none."""
        return cls(**{**kept, "beside": tuple(kept.get("beside", (1.0,)))})
