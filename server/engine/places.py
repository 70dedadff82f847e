"""How many sequences run side by side, where memory has turned out to be short of what all of them need."""

from collections.abc import Hashable

PATIENCE = 32
"""Steps that draw, until one place more is tried after the first fault; twice as many after each further one."""

LONGEST = 8 * PATIENCE
"""The most such steps: a shortage that has passed does not leave a server with one place for hours."""


class Places:
    """Half as many after a step that ran out of memory, then one more after another, up to ``most`` again.

    Attributes:
        now: sequences that may run side by side.
        faults: steps that ran out of memory.
    """

    def __init__(self, most: int) -> None:
        self.now = most
        self.faults = 0
        self._most = most
        self._patience = PATIENCE
        self._drawn = 0
        self._alone: Hashable = None

    def ran_out(self, running: int, alone: Hashable) -> bool:
        """A step of ``running`` sequences ran out of memory; whether ``alone`` is to be given up.

        ``alone``: the one that had the only place there was, None where there were more. It is tried once more, now that what
        was kept for others is given back; and again for as long as that gets it further.
        """
        if self.now < self._most:
            # So that whoever runs gets further before it is tried again.
            self._patience = min(2 * self._patience, LONGEST)
        hopeless = alone is not None and alone == self._alone
        self._alone = alone
        self.now = max(1, min(self.now, running) // 2)
        self.faults += 1
        self._drawn = 0
        return hopeless

    def drew(self) -> None:
        """A step drew tokens."""
        self._alone = None
        if self.now == self._most:
            return
        self._drawn += 1
        if self._drawn == self._patience:
            self.now += 1
            self._drawn = 0
            if self.now == self._most:
                self._patience = PATIENCE
