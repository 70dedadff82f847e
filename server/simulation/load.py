"""What one member has to do in one step."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class MemberLoad:
    """Of one member in one step:

    Attributes:
        tokens: it computes, those that are decoded and those of prompts.
        draws: rows with logits.
        attended: tokens of context over which single tokens attend, as long as the rows they lie in.
        read: the same for chunks of prompts: tokens of each times the context at its end.
        moved: tokens of its cache that are written to put rows in order: copies, and slabs that grow.
    """

    tokens: int = 0
    draws: int = 0
    attended: int = 0
    read: int = 0
    moved: int = 0

    def numbers(self) -> tuple[int, int, int, int, int]:
        """For a file."""
        return self.tokens, self.draws, self.attended, self.read, self.moved


Load = Sequence[MemberLoad]
"""What a step has to do, by member's number; one that computes nothing has no tokens."""
