"""What a loss compares with: the start model, read once before training, or weights that follow the trained ones."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm

from arm_models.losses import ScoredPairs, moved
from arm_models.training.batches import Example, MicroBatch, collate
from arm_models.training.config import TrainConfig

Read = Callable[[MicroBatch], ScoredPairs]


class Reference(Protocol):
    """The reference of a run. state: what its checkpoints keep of it."""

    state: dict[str, Tensor]

    def log_probs(self, batch: MicroBatch, split: str) -> tuple[Tensor, Tensor]:
        """Of both answers of every pair, ``[B]`` each. split: "train" or "held_out", where the pairs are from."""

    def follow(self, update: int) -> None:
        """Move, if it is time after so many updates."""


class FixedReference:
    """The start model, as a table of what it says of every pair.

    It never changes, so one reading costs no more than one epoch of a second model beside the first would, and no memory
    for that model. state: a split's name → ``[pairs, 2]`` float32, the log-probs of both answers, NaN for pairs that
    the run does not see.
    """

    def __init__(self, tables: dict[str, Tensor]) -> None:
        self.state = tables

    def log_probs(self, batch: MicroBatch, split: str) -> tuple[Tensor, Tensor]:
        """From the table, on the batch's device."""
        rows = self.state[split][batch.places.cpu()].to(batch.input_ids.device)
        return rows[:, 0], rows[:, 1]

    def follow(self, update: int) -> None:
        """It stays where it is."""


class MovingReference:
    """Weights that follow the trained ones (TR-DPO, arXiv 2404.09656).

    Every ``reference_sync_steps`` updates they become a·π + (1 − a)·π_ref ("soft") or π ("hard"). Only what is trained has
    a second copy: all weights, or an adapter's factors. To be read, the copy stands in the model for a moment.
    state: the copy, by the weights' names.
    """

    def __init__(self, module: Any, trained: dict[str, Tensor], read: Read, config: TrainConfig) -> None:
        self._module, self._trained, self._read = module, trained, read
        self._mixup = config.reference_mixup if config.reference_update == "soft" else 1.0
        self._every = config.sync_steps
        self.state = {name: weight.detach().clone() for name, weight in trained.items()}

    @torch.no_grad()
    def log_probs(self, batch: MicroBatch, split: str) -> tuple[Tensor, Tensor]:  # noqa: ARG002  it reads any pairs
        """By a forward of the model with the reference's weights, without dropout."""
        with self._in_place():
            pairs = self._read(batch)
        return pairs.chosen, pairs.rejected

    @torch.no_grad()
    def follow(self, update: int) -> None:
        """Move every weight, if ``update`` is one after which that is due."""
        if update % self._every == 0:
            for name, weight in self._trained.items():
                self.state[name] = moved(self.state[name], weight, self._mixup)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        training = self._module.training
        own = {name: weight.data for name, weight in self._trained.items()}
        try:
            for name, weight in self._trained.items():
                weight.data = self.state[name].to(weight.device)
            self._module.eval()
            yield
        finally:
            for name, weight in self._trained.items():
                weight.data = own[name]
            self._module.train(training)


def beside(pairs: ScoredPairs, reference: tuple[Tensor, Tensor]) -> ScoredPairs:
    """``pairs`` with the log-probs of a reference."""
    return replace(pairs, reference_chosen=reference[0], reference_rejected=reference[1])


@torch.no_grad()
def reference_log_probs(
    examples: Sequence[Example],
    count: int,
    read: Read,
    size: int,
    share: tuple[int, int],
    pad_id: int,
    progress: bool,
) -> Tensor:
    """Log-probs of both answers of ``examples`` by ``read``: ``[count, 2]`` float32, rows by ``Example.place``.

    Rows of pairs that are not among ``examples`` are NaN. size: pairs in a forward, taken by length over all data, so there
    is next to no padding. share: (rank, processes); every process gets the whole table.
    """
    rank, processes = share
    ordered = sorted(examples, key=len, reverse=True)
    chunks = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    found: list[tuple[list[int], Tensor]] = []
    with tqdm(total=len(ordered), desc="reference", disable=None if progress else True, leave=False) as bar:
        for number, chunk in enumerate(chunks):
            if number % processes == rank:
                pairs = read(collate(chunk, pad_id))
                rows = torch.stack([pairs.chosen, pairs.rejected], dim=-1).float().cpu()
                found.append(([example.place for example in chunk], rows))
            bar.update(len(chunk))
    table = torch.full((count, 2), torch.nan)
    for places, rows in gather_object(found):
        table[places] = rows
    return table
