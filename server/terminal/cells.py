"""Text as a terminal shows it: harmless, and so many cells wide."""

from __future__ import annotations

import unicodedata

JOINERS = "\u200c\u200d"
"""Invisible, but scripts and emoji are written with them."""

TAB = "    "


def harmless(text: str) -> str:
    """``text`` with everything made visible that a terminal would obey instead of showing it; line breaks stay.

    Whoever wrote the text (a model, a server, somebody whose words were pasted) must not be able to send escape
    codes, ring the bell, overwrite what stands there or turn the reading direction round.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def one_line(text: str) -> str:
    """``harmless(text)`` without line breaks, each run of white space a space."""
    return harmless(" ".join(text.split()))


def width(text: str) -> int:
    """Cells that harmless ``text`` takes, without line breaks."""
    return sum(map(cells, text))


def cells(character: str) -> int:
    """0 for what sits on the character before it, 2 for wide ones, else 1."""
    if " " <= character <= "~":
        return 1
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, limit: int) -> str:
    """The beginning of harmless ``text`` that takes at most ``limit`` cells."""
    taken = 0
    for index, character in enumerate(text):
        taken += cells(character)
        if taken > limit:
            return text[:index]
    return text


def _shown(character: str) -> str:
    if character.isprintable() or character == "\n" or character in JOINERS:
        return character
    if character == "\t":
        return TAB
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode's pictures of the control characters
    if code == 0x7F:
        return "\u2421"
    return character if unicodedata.category(character) == "Zs" else f"<U+{code:04X}>"
