"""Cuts an answer at its stop strings, wherever the borders between tokens fall."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Lets text through until one of ``stops`` is complete; holds back only what may still become one.

    The stop that is complete first ends the answer (of several that end at the same character, the longest),
    and the answer is cut where that stop begins, or, with ``shown``, where it ends. The result depends on the
    text alone, not on the pieces in which it arrives.
    """

    def __init__(self, stops: Sequence[str], *, shown: bool = False) -> None:
        if any(not stop for stop in stops):
            raise ValueError("a stop string must not be empty")
        self._automata = [_Automaton(stop) for stop in stops]
        self._shown = shown
        self._held = ""
        self.hit = False

    def push(self, text: str, *, armed: bool = True) -> str:
        """The part of what is known so far that is certain to be in the answer; sets ``hit`` when a stop is
        complete. A stop that ends in text which is not ``armed`` ends nothing, but may begin there.
        """
        if self.hit:
            return ""
        if not self._automata:
            return text
        known = self._held + text
        for end, character in enumerate(text, start=len(self._held) + 1):
            complete = max(automaton.step(character) for automaton in self._automata)
            if complete and armed:
                self.hit = True
                self._held = ""
                return known[: end if self._shown else end - complete]
        waiting = 0 if self._shown else max(automaton.state for automaton in self._automata)
        free = len(known) - waiting
        self._held = known[free:]
        return known[:free]

    def flush(self) -> str:
        """What was held back and, the answer being over, is no stop string."""
        held, self._held = self._held, ""
        return held


class _Automaton:
    """Knuth-Morris-Pratt: how much of one stop string the text ends with, in amortised constant time per
    character.
    """

    def __init__(self, stop: str) -> None:
        self._stop = stop
        self._failure = [0] * len(stop)
        length = 0
        for index in range(1, len(stop)):
            while length and stop[index] != stop[length]:
                length = self._failure[length - 1]
            if stop[index] == stop[length]:
                length += 1
            self._failure[index] = length
        self.state = 0

    def step(self, character: str) -> int:
        """Reads one character; the stop's length when it completes the stop, else 0."""
        while self.state and self._stop[self.state] != character:
            self.state = self._failure[self.state - 1]
        if self._stop[self.state] == character:
            self.state += 1
        if self.state < len(self._stop):
            return 0
        self.state = self._failure[-1]  # where it goes on if this one does not count
        return len(self._stop)
