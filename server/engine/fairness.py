"""Who is served next where several owners have work, and who gives way.

Tokens are counted as in the Virtual Token Counter (Sheng et al., OSDI 2024): each owner has a counter of what it has been
given, the least is served first, and one that comes from idleness begins where the least of the others is, so that nobody
saves up for a burst and nobody is punished for having used what was free.

Places and memory are divided equally among those who ask for them: an owner may count on its share, and whoever has more gives
way when it does. Nothing here knows sequences or caches.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

PROMPT_COST = 1
RESPONSE_COST = 2
"""What a token counts: one that is drawn takes a row of a step for itself. The paper's weights."""


class VirtualTokens:
    """What each owner of responses under way has been given, in tokens by their cost. Owners without work owe what they had
    more than others, as long as anybody is left to owe it to."""

    def __init__(self) -> None:
        self._counters: dict[str, int] = {}
        self._work: Counter[str] = Counter()  # responses under way, by owner

    def __getitem__(self, owner: str) -> int:
        """What ``owner``, who has work, has been given. Raises ``KeyError``."""
        return self._counters[owner]

    @property
    def owners(self) -> int:
        """Owners that have work."""
        return len(self._work)

    def come(self, owner: str) -> None:
        """One more response of ``owner`` is under way."""
        if owner not in self._work:
            self._counters[owner] = max(self._counters.get(owner, 0), self._least())
        self._work[owner] += 1

    def leave(self, owner: str) -> None:
        """A response of ``owner`` is over."""
        self._work[owner] -= 1
        if self._work[owner]:
            return
        del self._work[owner]
        # At or below the least an owner would begin there anyway, so nothing of it need be known.
        least = self._least()
        for name in [name for name in self._counters if name not in self._work]:
            if not self._work or self._counters[name] <= least:
                del self._counters[name]

    def charge(self, owner: str, cost: int) -> None:
        """``owner``, who has work, was given so much."""
        self._counters[owner] += cost

    def share(self, total: int) -> int:
        """What an owner may count on of ``total``: an equal part, at least 1."""
        return max(1, total // max(1, self.owners))

    def next(self, waiting: Iterable[str], running: Mapping[str, int]) -> str:
        """Of the owners in ``waiting``, the one whose response is to start next; ``running``: how many each has started.

        First those that would still have no more than their share with it; of these, and then of all, the one that was given
        least; of equals the first. Starting in another order would only make somebody give way again.
        """
        part = self.share(sum(running.values()) + 1)
        return min(waiting, key=lambda owner: (running.get(owner, 0) >= part, self._counters[owner]))

    def _least(self) -> int:
        return min((self._counters[owner] for owner in self._work), default=0)


@dataclass(frozen=True, slots=True)
class Load:
    """A response that runs: whose it is, and what it takes of each resource."""

    owner: str
    uses: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shortage:
    """A response of ``owner`` cannot start: of each resource what it needs, what is free, and an owner's share of it all."""

    owner: str
    needs: tuple[int, ...]
    free: tuple[int, ...]
    shares: tuple[int, ...]


def give_way(shortage: Shortage, running: Sequence[Load]) -> list[int]:
    """Which of ``running``, oldest first, are to be put off so that a response can start; none where that is not to be.

    It is where the owner stays within its share of all that is short. Who has most of that, and more than its share, gives
    way with its youngest. An owner's oldest never does: whatever others ask for, it gets on. Nobody is put off in vain.
    """
    short = [place for place, need in enumerate(shortage.needs) if need > shortage.free[place]]
    taken = [_used(running, shortage.owner, place) + shortage.needs[place] for place in short]
    if any(total > shortage.shares[place] for total, place in zip(taken, short, strict=True)):
        return []
    left = dict(enumerate(running))
    gone: list[int] = []
    for place in short:
        free = shortage.free[place] + sum(running[index].uses[place] for index in gone)
        while free < shortage.needs[place]:
            index = _largest(left, shortage, place)
            if index is None:
                return []
            free += left.pop(index).uses[place]
            gone.append(index)
    return gone


def _largest(running: Mapping[int, Load], shortage: Shortage, place: int) -> int | None:
    """The youngest of who has most of a resource; None where nobody can give any."""
    youngest: dict[str, int] = {}
    oldest: dict[str, int] = {}
    for index, load in running.items():
        oldest.setdefault(load.owner, index)
        if load.uses[place]:
            youngest[load.owner] = index
    can = {
        owner: _used(running.values(), owner, place)
        for owner, index in youngest.items()
        if owner != shortage.owner and index != oldest[owner]
    }
    above = {owner: used for owner, used in can.items() if used > shortage.shares[place]}
    return youngest[max(above, key=lambda owner: above[owner])] if above else None


def _used(running: Iterable[Load], owner: str, place: int) -> int:
    return sum(load.uses[place] for load in running if load.owner == owner)
