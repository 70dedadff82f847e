"""The places there are for choices, and who has them.

A place is taken when it is checked, before anything is prepared; tokens are, when a prompt has been read and they are known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from server.errors import ConcurrencyLimit, InvalidRequest, QueueFull

RETRY_AFTER = 1
"""Seconds after which a refused request may be tried again; a full queue moves with every finished answer."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request asks for: ``places`` for its choices, in the name of ``owner`` ("" without keys).

    ``most``: places that the owner may have together; None where nothing is said. ``arrived``: the ``time.monotonic()`` at
    which the request came in.
    """

    owner: str
    places: int
    arrived: float
    most: int | None = None


class Places:
    """``capacity`` places and room for ``tokens`` of prompts and answers (None: without bound); lives on the event loop.

    ``share``: of what others leave, the part that one owner may have; 1 where nobody has to leave anything. An owner that has
    nothing is let in wherever there is room.
    """

    def __init__(
        self, capacity: int, tokens: int | None = None, share: Callable[[], float] = lambda: 1.0
    ) -> None:
        self.capacity = capacity
        self.taken = 0
        self.taken_tokens = 0
        self._share = share
        self._tokens = tokens
        self._places: Counter[str] = Counter()
        self._owned_tokens: Counter[str] = Counter()

    def held(self, owner: str) -> int:
        """The places that an owner has."""
        return self._places[owner]

    def take(self, claim: Claim) -> None:
        """Take the places that are claimed.

        Raises:
            ConcurrencyLimit: the owner would have more than it may.
            QueueFull: there are not so many left, or the owner has its share of them.
        """
        owned, asked = self._places[claim.owner], claim.places
        if claim.most is not None and owned + asked > claim.most:
            raise ConcurrencyLimit(
                f"This key has {owned} answers under way and may have {claim.most}; try again later.",
                retry_after=RETRY_AFTER,
            )
        self._check(owned, asked, self.capacity - self.taken)
        self.taken += asked
        self._places[claim.owner] += asked

    def take_tokens(self, owner: str, asked: int) -> None:
        """Take room for so many tokens, of an owner that has places.

        Raises:
            InvalidRequest: there never is room for so many.
            QueueFull: there is none now, or the owner has its share of it.
        """
        if self._tokens is not None:
            if asked > self._tokens:
                raise InvalidRequest(
                    f"This deployment takes at most {self._tokens} tokens at once; this request asks for {asked}, "
                    "its prompts and the tokens its answers may have.",
                    param="max_tokens",
                )
            self._check(self._owned_tokens[owner], asked, self._tokens - self.taken_tokens)
        self.taken_tokens += asked
        self._owned_tokens[owner] += asked

    def leave(self, owner: str, places: int, tokens: int = 0) -> None:
        """Give back what an owner had."""
        self.taken -= places
        self.taken_tokens -= tokens
        for counts, amount in ((self._places, places), (self._owned_tokens, tokens)):
            counts[owner] -= amount
            if not counts[owner]:
                del counts[owner]

    def _check(self, owned: int, asked: int, free: int) -> None:
        if asked > free:
            raise QueueFull("The queue is full; try again later.", retry_after=RETRY_AFTER)
        if owned and owned + asked > self._share() * (owned + free):
            raise QueueFull(
                "Your requests take all of the queue that one key may have; try again later.",
                retry_after=RETRY_AFTER,
            )
