"""The reference of a loss: what the start model says of every pair, read once before training."""

from collections.abc import Callable, Sequence

import torch
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm

from arm_models.losses import ScoredPairs
from arm_models.training.batches import Example, MicroBatch, collate

Read = Callable[[MicroBatch], ScoredPairs]


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

    A reference that does not move is read once: that takes the time of one epoch's reading by a second model, and no
    memory for one. Rows of pairs that are not among ``examples`` are NaN. size: pairs in a forward, taken by length over
    all data, so there is next to no padding. share: (rank, processes); every process gets the whole table.
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
