"""Where a step's logits lie: every member's, behind each token of each context for which they were wanted."""

from collections.abc import Hashable, Mapping, Sequence

import torch

from server.engine.chunk import Chunk
from server.engine.sampling.mix import Contribution
from server.engine.sequence import Sequence as Running
from server.engine.transfer import upload

_Place = tuple[torch.Tensor, int]


class Readout:
    """The logits of one step, in as many forwards as it took; ``members`` in the order in which they are mixed."""

    def __init__(self, members: Sequence[str]) -> None:
        self._places: dict[str, dict[Hashable, list[_Place]]] = {name: {} for name in members}

    def add(self, chunks: Mapping[str, Sequence[Chunk]], logits: Mapping[str, torch.Tensor]) -> None:
        """What members said about ``chunks``; behind what they said about the same contexts before."""
        for name, rows in logits.items():
            places, row = self._places[name], 0
            for chunk in chunks[name]:
                if chunk.logits:
                    places.setdefault(chunk.owner, []).extend(
                        (rows, row + number) for number in range(chunk.logits)
                    )
                    row += chunk.logits

    def parts(self, drawing: Sequence[Running], forks: Mapping[str, Running]) -> dict[str, Contribution]:
        """By member, the logits that the next token of each of ``drawing`` comes from: behind its guesses that stood so far; with
        weight 0 where it is read but not mixed in.

        ``forks``: follower → whose logits it shares.
        """
        parts = {}
        for name, places in self._places.items():
            rows = [row for row, one in enumerate(drawing) if one.reads(name)]
            if not rows:
                continue
            chosen = []
            for row in rows:
                one = drawing[row]
                owner = forks[one.id].id if one.id in forks else one.id
                chosen.append(places[owner][one.drafting.stood - len(one.drafting.tokens) - 1])
            weights = [drawing[row].mix.get(name, 0.0) for row in rows]
            parts[name] = Contribution(_gather(chosen), rows, weights)
        return parts

    def latest(
        self, drawing: Sequence[Running], members: Sequence[str], sharpness: Sequence[float]
    ) -> list[Contribution]:
        """What ``members`` said last about each of ``drawing``; their weights times its ``sharpness``."""
        parts = []
        for name in members:
            rows = [row for row, one in enumerate(drawing) if one.mix.get(name)]
            if rows:
                chosen = [self._places[name][drawing[row].id][-1] for row in rows]
                weights = [drawing[row].mix[name] * sharpness[row] for row in rows]
                parts.append(Contribution(_gather(chosen), rows, weights))
        return parts


def _gather(places: Sequence[_Place]) -> torch.Tensor:
    """These rows [len(places), vocab]; the tensor itself where they are all it has."""
    first = places[0][0]
    if any(rows is not first for rows, _ in places):
        return torch.stack([rows[place] for rows, place in places])
    chosen = [place for _, place in places]
    if chosen == list(range(len(first))):
        return first
    return first.index_select(0, upload(chosen, first.device, torch.long))
