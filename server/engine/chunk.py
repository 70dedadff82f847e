"""What one member still has to read of one context."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one context that the member has not computed yet.

    ``owner`` names the context in the cache, ``start`` is the position of ``tokens[0]``; next-token logits are wanted behind
    each of the last ``logits`` tokens. A token below 0 is one that only the device knows: ``-1 - row`` is what the step before
    drew in batch row ``row``. ``condition``: the preference vector of a member that is conditioned on one.

    ``apart``: the tokens are candidates for one and the same place ``start``. Each sees the context before it, which is computed
    by then or beside it, and itself; their keys and values are not kept.
    """

    owner: Hashable
    tokens: Sequence[int]
    start: int
    is_prompt: bool
    logits: int
    condition: tuple[float, ...] = ()
    apart: bool = False

    @property
    def positions(self) -> Sequence[int]:
        """Where each of the tokens stands."""
        if self.apart:
            return [self.start] * len(self.tokens)
        return range(self.start, self.start + len(self.tokens))
