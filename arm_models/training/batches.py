"""Which pairs an update sees: a pure function of (seed, step), so that a resumed run needs no reader's position."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from arm_models.data import EncodedPair
from arm_models.losses import IGNORE


@dataclass(frozen=True)
class BatchOrder:
    """Epochs of shuffled pairs, cut into batches of ``batch_size`` (all processes and forwards of an update together).

    The last batch of an epoch is smaller where ``batch_size`` does not divide ``count``.
    """

    count: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Updates in one pass over the data."""
        return math.ceil(self.count / self.batch_size)

    def indices(self, step: int) -> list[int]:
        """Indices of the pairs of update ``step``, counted from 0 over all epochs."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
        return [int(i) for i in order[place * self.batch_size : (place + 1) * self.batch_size]]


@dataclass(frozen=True, slots=True)
class Example:
    """A pair, how much it counts in the mean over a batch, and its place among those that the reference has read."""

    pair: EncodedPair
    weight: float = 1.0
    place: int = 0

    def __len__(self) -> int:
        """Tokens of its longer sequence."""
        return len(self.pair)


@dataclass(frozen=True)
class MicroBatch:
    """The pairs of one forward of one process. B pairs, T tokens, right-padded.

    input_ids, attention_mask, labels: ``[2B, T]``, the chosen answers first, then the rejected ones; labels are
    ``IGNORE`` at prompt and padding. weights: ``[B]``, on average 1, and 0 for a pair that only keeps processes in
    step. places: ``[B]`` int64, ``Example.place``.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    weights: Tensor
    places: Tensor

    def to(self, device: torch.device) -> "MicroBatch":
        """The same batch on ``device``."""
        return MicroBatch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def micro_batches(
    examples: Sequence[Example], size: int, rank: int, world_size: int, pad_id: int
) -> Iterator[MicroBatch]:
    """This process's share of ``examples`` in forwards of ``size``; every process gets equally many.

    Pairs of like length go into one forward, which saves padding and changes nothing: the loss is a mean over pairs.
    """
    ordered = sorted(examples, key=len)
    chunks = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    for first in range(0, len(chunks), world_size):
        mine = first + rank
        chunk = chunks[mine] if mine < len(chunks) else [replace(chunks[first][0], weight=0.0)]
        yield collate(chunk, pad_id)


def collate(examples: Sequence[Example], pad_id: int) -> MicroBatch:
    """``examples`` side by side, padded on the right to the longest."""
    pairs = [example.pair for example in examples]
    rows = [(pair.prompt, pair.chosen) for pair in pairs] + [(pair.prompt, pair.rejected) for pair in pairs]
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = np.full((len(rows), length), pad_id, dtype=np.int64)
    labels = np.full_like(ids, IGNORE)
    mask = np.zeros_like(ids)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[row, : len(prompt)] = prompt
        ids[row, len(prompt) : end] = labels[row, len(prompt) : end] = answer
        mask[row, :end] = 1
    tensors = (torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(labels))
    weights = torch.tensor([example.weight for example in examples])
    return MicroBatch(*tensors, weights, torch.tensor([example.place for example in examples]))
