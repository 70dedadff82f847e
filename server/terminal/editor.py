"""The line that is being typed."""

from __future__ import annotations

from server.terminal.cells import cells, harmless, width
from server.terminal.keys import Key


class Editor:
    """Text with a cursor, and the lines typed before."""

    def __init__(self) -> None:
        self.text = ""
        self._cursor = 0
        self._history: list[str] = []
        self._at = 0

    def put(self, text: str) -> None:
        """Replaces the line, cursor at its end."""
        self.text, self._cursor = text, len(text)

    def take(self) -> str:
        """The line, remembered; what follows is typed afresh."""
        text = self.text
        if text.strip() and self._history[-1:] != [text]:
            self._history.append(text)
        self._at = len(self._history)
        self.put("")
        return text

    def press(self, key: Key) -> None:
        """Does what ``key`` does in a line; other keys do nothing."""
        before, after = self.text[: self._cursor], self.text[self._cursor :]
        match key.name:
            case "text" | "paste":
                before += key.text
            case "backspace":
                before = before[: -_last(before)] if before else before
            case "delete" | "ctrl-d":
                after = after[_first(after) :]
            case "left" | "ctrl-b":
                step = _last(before)
                before, after = before[: len(before) - step], before[len(before) - step :] + after
            case "right" | "ctrl-f":
                step = _first(after)
                before, after = before + after[:step], after[step:]
            case "home" | "ctrl-a":
                before, after = "", before + after
            case "end" | "ctrl-e":
                before, after = before + after, ""
            case "ctrl-u":
                before = ""
            case "ctrl-k":
                after = ""
            case "ctrl-w":
                kept = before.rstrip()
                before = kept[: len(kept) - len(kept.split()[-1])] if kept else ""
            case "up" | "ctrl-p":
                return self._recall(-1)
            case "down" | "ctrl-n":
                return self._recall(1)
        self.text, self._cursor = before + after, len(before)
        return None

    def view(self, limit: int) -> tuple[str, int]:
        """The part around the cursor that fits into ``limit`` cells, harmless, and the cursor's cell in it."""
        shown = [_visible(character) for character in self.text]
        sizes = [width(character) for character in shown]
        first, used = self._cursor, 0
        while first and used + sizes[first - 1] < limit:
            first -= 1
            used += sizes[first]
        last, cursor = self._cursor, used
        while last < len(shown) and used + sizes[last] <= limit:
            used += sizes[last]
            last += 1
        return "".join(shown[first:last]), cursor

    def _recall(self, step: int) -> None:
        at = self._at + step
        if 0 <= at <= len(self._history):
            self._at = at
            self.put(self._history[at] if at < len(self._history) else "")


def _visible(character: str) -> str:
    return "\u240a" if character == "\n" else harmless(character)


def _first(text: str) -> int:
    """Length of the first character with what sits on it."""
    return next((i for i, one in enumerate(text) if i and (one == "\n" or cells(one))), len(text))


def _last(text: str) -> int:
    """Length of the last character with what sits on it."""
    return next(
        (i for i in range(1, len(text) + 1) if text[-i] == "\n" or cells(text[-i])),
        len(text),
    )
