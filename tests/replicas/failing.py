"""``genarm`` with replicas whose device can fail: ``python -m tests.replicas.failing deploy ray …``. A request with the header
``x-fail`` makes the engine of its replica die at the next step.
"""

import sys
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from server import cli
from server.replicas import application
from server.replicas.replica import Replica
from tests.faults.fault import Fault


class Failing(Replica):
    """A replica with a fault in its engine."""

    async def __init__(self, declared: Mapping[str, Any], registry: Any) -> None:  # type: ignore[misc]
        self._fault = Fault("decode", 1)
        self._fault.install(setattr)
        await super().__init__(declared, registry)

    async def stream(self, errand: Any, head: Any, body: bytes) -> AsyncGenerator[Any]:
        if b"x-fail" in dict(head["headers"]):
            self._fault.arm()
        async for batch in super().stream(errand, head, body):
            yield batch


def main() -> int:
    """The command's exit code."""
    from tests.replicas.failing import Failing  # the one that other processes can import

    application.Replica = Failing  # type: ignore[misc]
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
