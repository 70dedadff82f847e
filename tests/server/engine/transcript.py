"""What an engine answered, and a grammar to answer in: for tests that compare two ways to run."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from server.engine import TokenOutput


class Pairs:
    """A grammar: tokens 50 to 59, an even number of them, then token 0."""

    ended = False

    def __init__(self) -> None:
        self._count = 0

    def allowed(self) -> torch.Tensor:
        mask = torch.zeros(300, dtype=torch.bool)
        mask[50:60] = True
        mask[0] = self._count % 2 == 0
        return mask

    def accept(self, token: int) -> None:
        assert 50 <= token < 60
        self._count += 1


@dataclass
class Run:
    """What an engine answered: outputs by id, and the changes that were made: (token from which on, mix)."""

    outputs: dict[str, list[TokenOutput]] = field(default_factory=dict)
    changes: dict[str, list[tuple[int, dict[str, float]]]] = field(default_factory=dict)

    def tokens(self, name: str) -> list[int]:
        return [output.token for output in self.outputs[name]]

    def take(self, outputs: Sequence[TokenOutput]) -> None:
        for output in outputs:
            of_this = self.outputs.setdefault(output.id, [])
            assert output.index == len(of_this)
            of_this.append(output)
