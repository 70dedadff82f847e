"""Where a text repeats itself: its last few tokens, the last time they stood together, and what followed then."""

from collections.abc import Iterable, Sequence

LONGEST, SHORTEST = 3, 2
"""Tokens that have to repeat; more are looked for first. One alone repeats without meaning anything."""


class Lookup:
    """A growing text and, for each of its runs of :data:`SHORTEST` to :data:`LONGEST` tokens, where the last one ended."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}
        self.extend(tokens)

    @property
    def length(self) -> int:
        """Tokens of the text."""
        return len(self._tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """The text goes on."""
        for token in tokens:
            # The run that ends here is entered when it is followed by something.
            for run in self._last_runs():
                self._ends[run] = len(self._tokens)
            self._tokens.append(token)

    def continuation(self, most: int) -> list[int]:
        """``most`` tokens that followed the longest run that the text ends in and held before, over and over where that is not
        so long ago; none where there is no such run."""
        for run in self._last_runs():
            end = self._ends.get(run)
            if end is not None:
                return [self._tokens[end + ahead % (self.length - end)] for ahead in range(most)]
        return []

    def _last_runs(self) -> list[tuple[int, ...]]:
        """The runs that end the text, the longest first."""
        lengths = range(min(LONGEST, len(self._tokens)), SHORTEST - 1, -1)
        return [tuple(self._tokens[-length:]) for length in lengths]
