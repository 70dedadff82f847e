"""From what a terminal sends to the keys that were pressed."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Key:
    """``text`` and ``paste`` carry characters; ``ctrl-a`` … ``ctrl-z``, ``enter``, ``left``, ``shift-left`` … do not.
    ``closed``: there is no terminal any more.
    """

    name: str
    text: str = ""


CLOSED = Key("closed")

_SEQUENCES = {
    "A": "up",
    "B": "down",
    "C": "right",
    "D": "left",
    "H": "home",
    "F": "end",
    "Z": "back-tab",
    "1~": "home",
    "7~": "home",
    "4~": "end",
    "8~": "end",
    "3~": "delete",
    "1;2C": "shift-right",
    "1;2D": "shift-left",
    "c": "shift-right",
    "d": "shift-left",
}
_CONTROLS = {"\r": "enter", "\n": "enter", "\t": "tab", "\x7f": "backspace", "\x08": "backspace"}
_WHOLE = re.compile(r"\x1b(?:\[\[[A-E]|\[([0-?]*[ -/]*[@-~])|O([@-~]))")
_BEGUN = re.compile(r"\x1b(?:\[\[?|\[[0-?]*[ -/]*|O)?\Z")
_PASTE, _PASTED = "200~", "\x1b[201~"


class KeyReader:
    """Takes characters as they arrive, escape sequences in any number of pieces."""

    def __init__(self) -> None:
        self.progress = 0
        """Grows with everything that is fed."""
        self._rest = ""
        self._pasting = False

    @property
    def undecided(self) -> bool:
        """Whether what came last may be the Escape key or the beginning of a sequence: only time can tell."""
        return bool(self._rest) and not self._pasting

    def feed(self, text: str) -> list[Key]:
        """The keys that are complete with ``text``."""
        self.progress += len(text)
        self._rest += text
        keys: list[Key] = []
        while self._rest:
            if self._pasting:
                pasted, end, rest = self._rest.partition(_PASTED)
                if not end:
                    break
                self._pasting, self._rest = False, rest
                keys.append(Key("paste", pasted.replace("\r\n", "\n").replace("\r", "\n")))
            elif (whole := _WHOLE.match(self._rest)) is not None:
                self._rest = self._rest[whole.end() :]
                sequence = whole[1] or whole[2] or ""
                self._pasting = sequence == _PASTE
                if sequence in _SEQUENCES:
                    keys.append(Key(_SEQUENCES[sequence]))
            elif _BEGUN.match(self._rest):
                break
            else:
                keys += _key(self._rest[0])
                self._rest = self._rest[1:]
        return keys

    def settle(self) -> list[Key]:
        """Nothing more came: a lone Escape was the key."""
        if not self.undecided:
            return []
        alone, self._rest = self._rest == "\x1b", ""
        return [Key("escape")] if alone else []


def _key(character: str) -> list[Key]:
    if character in _CONTROLS:
        return [Key(_CONTROLS[character])]
    if character == "\x1b":
        return [Key("escape")]
    if "\x01" <= character <= "\x1a":
        return [Key(f"ctrl-{chr(ord(character) + 0x60)}")]
    return [Key("text", character)] if character >= " " else []
