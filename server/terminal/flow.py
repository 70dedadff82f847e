"""Styled text that arrives in pieces, broken into rows between words."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.terminal.cells import cells

PLAIN = ""


@dataclass
class Flow:
    """Where the text ends: ``column`` in a row of ``width`` cells, and the word that is being written there.

    A word that outgrows its row is taken back and written again in the next. The last cell of a row is left
    free, because terminals differ in where the cursor is after it.
    """

    width: int
    column: int = 0
    _word: list[tuple[str, str]] = field(default_factory=list)
    _word_cells: int = 0
    _style: str = PLAIN

    def push(self, text: str, style: str = PLAIN) -> str:
        """What has to be written to show harmless ``text``; ``style`` is the parameters of an SGR sequence."""
        written = "".join(self._character(character, style) for character in text)
        return written + self._styled("", PLAIN)

    def resized(self, columns: int) -> None:
        """The terminal has ``columns`` cells in a row now, and has broken the last row itself if need be."""
        self.width = max(columns - 1, 2)
        self.column %= self.width + 1
        self._end_word()

    def at_start(self) -> None:
        """The cursor was put at the start of an empty row."""
        self.column = 0
        self._end_word()

    def _character(self, character: str, style: str) -> str:
        if character == "\n":
            return self._break()
        wide = cells(character)
        if character == " ":
            self._end_word()
            if self.column + 1 > self.width:
                return self._break()
            self.column += 1
            return self._styled(" ", PLAIN)
        before = self._next_row() if self.column + wide > self.width else ""
        if wide == 2:
            self._end_word()  # scripts of wide characters break anywhere
        else:
            self._word.append((character, style))
            self._word_cells += wide
        self.column += wide
        return before + self._styled(character, style)

    def _next_row(self) -> str:
        word, taken = self._word, self._word_cells
        if taken == 0 or taken == self.column:  # nothing to take along, or longer than a row
            return self._break()
        back = f"\x1b[{taken}D" + self._styled("", PLAIN) + "\x1b[K"
        again = self._break() + "".join(self._styled(one, style) for one, style in word)
        self._word, self._word_cells, self.column = word, taken, taken
        return back + again

    def _break(self) -> str:
        self.at_start()
        return self._styled("\n", PLAIN)

    def _end_word(self) -> None:
        self._word, self._word_cells = [], 0

    def _styled(self, text: str, style: str) -> str:
        if style == self._style:
            return text
        self._style = style
        return (f"\x1b[0;{style}m" if style else "\x1b[0m") + text
