"""What has been measured of one machine and one deployment, in one file: all that a simulation takes its seconds from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arm_models.errors import UserError
from arm_models.whole_file import write_whole
from server.simulation.cost import Errors, StepCost, StepSample, fit
from server.simulation.host import Host
from server.simulation.limits import Limits
from server.simulation.load import MemberLoad

FORMAT = 2


@dataclass(frozen=True, slots=True)
class Work:
    """CPU seconds beside the steps, of a token and of a request."""

    token: float
    request: float

    def of(self, tokens: float, requests: float) -> float:
        """Of so many."""
        return self.token * tokens + self.request * requests


@dataclass(frozen=True, slots=True)
class Measured:
    """One file of ``genarm simulate measure``.

    Attributes:
        about: the command, the machine and the settings.
        members: names, the base first; ``classes``: of each, which share their costs; ``stores``: of each, a number that is the
            same where rows of the cache lie in the same slabs.
        steps: to fit; ``checks``: steps that the fit never sees.
        cores: of the machine.
        beside: by how many engines are busy on it, how many times as long a step takes as alone.
        server, client: CPU beside the steps, in the server's process and in the client's.
        arrival_seconds: from a request's arrival to the step that could begin it.
        central: seconds of what is there once for all replicas, by name; None: not measured.
    """

    about: Mapping[str, Any]
    members: tuple[str, ...]
    classes: tuple[str, ...]
    stores: tuple[int, ...]
    limits: Limits
    steps: Sequence[StepSample]
    checks: Sequence[StepSample]
    cores: int
    beside: tuple[float, ...]
    server: Work
    client: Work
    arrival_seconds: float
    central: Mapping[str, float | None] = field(default_factory=dict)

    def cost(self) -> StepCost:
        """Fitted to the steps. Raises ``ValueError`` where they do not do."""
        return fit(self.steps, self.classes)

    def errors(self) -> Errors:
        """Of the fit, against the steps it has not seen."""
        return self.cost().errors(self.checks)

    def host(self, replicas: int) -> Host:
        """This machine with so many replicas and the client on it."""
        return Host(
            replicas,
            float(self.cores),
            self.beside,
            self.server.token + self.client.token,
            self.server.request + self.client.request,
            self.arrival_seconds,
        )

    def own_host(self) -> Host:
        """A machine of its own for each replica, the clients elsewhere: nothing to wait for but its own steps and, where that is
        more, the one thread that its tokens are sent from."""
        return Host(1, None, (1.0,), arrival_seconds=self.arrival_seconds)

    def write(self, path: Path) -> None:
        """To a file. Raises ``OSError``."""
        record = {
            "format": FORMAT,
            **self.about,
            "members": list(self.members),
            "classes": list(self.classes),
            "stores": list(self.stores),
            "limits": self.limits.as_json(),
            "cores": self.cores,
            "beside": list(self.beside),
            "server": {"token": self.server.token, "request": self.server.request},
            "client": {"token": self.client.token, "request": self.client.request},
            "arrival_seconds": self.arrival_seconds,
            "central": dict(self.central),
            "steps": [_kept(sample) for sample in self.steps],
            "checks": [_kept(sample) for sample in self.checks],
        }
        write_whole(path, json.dumps(record) + "\n")


_OWN = frozenset(
    (
        "format",
        "members",
        "classes",
        "stores",
        "limits",
        "steps",
        "checks",
        "cores",
        "beside",
        "server",
        "client",
    )
) | {"arrival_seconds", "central"}


def read_measured(path: Path) -> Measured:
    """A file of ``genarm simulate measure``.

    Raises:
        UserError: it cannot be read or is none.
    """
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{path}: cannot be read: no such file, or not JSON") from None
    if not isinstance(kept, dict) or kept.get("format") != FORMAT:
        raise UserError(f"{path}: is no file that `genarm simulate measure` wrote")
    try:
        measured = Measured(
            {key: value for key, value in kept.items() if key not in _OWN},
            tuple(kept["members"]),
            tuple(kept["classes"]),
            tuple(kept["stores"]),
            Limits.from_json(kept["limits"]),
            [_sample(one) for one in kept["steps"]],
            [_sample(one) for one in kept["checks"]],
            int(kept["cores"]),
            tuple(kept["beside"]),
            Work(**kept["server"]),
            Work(**kept["client"]),
            float(kept["arrival_seconds"]),
            kept["central"],
        )
        measured.cost()
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from None
    return measured


def _kept(sample: StepSample) -> list[Any]:
    return [sample.seconds, [own.numbers() for own in sample.load]]


def _sample(kept: Sequence[Any]) -> StepSample:
    seconds, loads = kept
    return StepSample([MemberLoad(*numbers) for numbers in loads], float(seconds))
