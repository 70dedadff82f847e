"""Which pairs an update sees: a pure function of (seed, step), so that a resumed run needs no reader's position."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class MicroBatch:
    """The pairs of one forward of one process. B pairs, T tokens, right-padded.

    input_ids, attention_mask, labels: ``[2B, T]``, the chosen answers first, then the rejected ones; labels are
    ``IGNORE`` at prompt and padding. weights: ``[B]``, 1, or 0 for a pair that only keeps processes in step.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> "MicroBatch":
        """The same batch on ``device``."""
        moved = (t.to(device) for t in (self.input_ids, self.attention_mask, self.labels, self.weights))
        return MicroBatch(*moved)


def micro_batches(
    pairs: Sequence[EncodedPair], size: int, rank: int, world_size: int, pad_id: int
) -> Iterator[MicroBatch]:
    """This process's share of ``pairs`` in forwards of ``size``; every process gets equally many.

    Pairs of like length go into one forward, which saves padding and changes nothing: the loss is a mean over pairs.
    """
    ordered = sorted(pairs, key=len)
    chunks = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    for first in range(0, len(chunks), world_size):
        mine = first + rank
        chunk, weight = (chunks[mine], 1.0) if mine < len(chunks) else (chunks[first][:1], 0.0)
        yield collate(chunk, weight, pad_id)


def collate(pairs: Sequence[EncodedPair], weight: float, pad_id: int) -> MicroBatch:
    """``pairs`` side by side, padded on the right to the longest."""
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
    return MicroBatch(*tensors, torch.full((len(pairs),), weight))
