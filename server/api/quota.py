"""What a key has elsewhere counts too, where there are several servers."""

from __future__ import annotations

from typing import Protocol

from server.api.places import Claim


class Quota(Protocol):
    """Says whether a key may have more places than it has on other servers. Called on the event loop."""

    async def grant(self, claim: Claim, held: int) -> None:
        """``held``: the places that the claim's owner has here, those of the claim among them.

        Raises:
            ConcurrencyLimit: with what it has elsewhere that is more than ``claim.most``.
        """

    def left(self, owner: str, held: int) -> None:
        """The owner gave places back and has ``held`` here now."""
