"""Many times between tokens, in few numbers."""

import math
from collections import Counter

RESOLUTION = 0.01
"""By so much a percentile may be off, as a share of itself."""

_STEP = math.log1p(2 * RESOLUTION)
_NONE = -(1 << 30)  # the bucket of 0


class Gaps:
    """Counts of seconds in buckets whose ends are 2 % apart."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def __len__(self) -> int:
        return self._counts.total()

    def add(self, seconds: float, count: int = 1) -> None:
        """So many times the same."""
        if count:
            self._counts[math.floor(math.log(seconds) / _STEP) if seconds > 0 else _NONE] += count

    def percentile(self, percent: float) -> float:
        """By nearest rank, within ``RESOLUTION``; not a number where there is nothing."""
        rank = max(1, math.ceil(percent / 100 * len(self)))
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= rank:
                return 0.0 if bucket == _NONE else math.exp((bucket + 0.5) * _STEP)
        return math.nan
