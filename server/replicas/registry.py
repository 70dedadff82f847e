"""The process that knows what each API key has on which replica."""

from __future__ import annotations

from collections.abc import Mapping

from server.replicas.leases import Leases


class Registry:
    """``Leases`` as a deployment of one replica. What it forgets when it dies, the replicas tell it again within a second."""

    def __init__(self) -> None:
        self._leases = Leases()

    async def ask(self, replica: str, number: int, owner: str, held: int, most: int) -> tuple[bool, int]:
        """See ``server.replicas.quota.Ledger``."""
        return self._leases.ask(replica, number, owner, held, most), self._leases.replicas

    async def report(self, replica: str, number: int, held: Mapping[str, int]) -> int:
        """See ``server.replicas.quota.Ledger``."""
        self._leases.report(replica, number, held)
        return self._leases.replicas
