"""An update's pairs depend on seed and step alone, and every process does its share."""

from itertools import chain

import numpy as np
import pytest

from arm_models.data import EncodedPair
from arm_models.losses import IGNORE
from arm_models.training.batches import BatchOrder, Example, collate, micro_batches


def example(prompt: int, chosen: int, rejected: int, weight: float = 1.0) -> Example:
    """Prompt tokens are 1, chosen ones 2, rejected ones 3."""
    parts = ((prompt, 1), (chosen, 2), (rejected, 3))
    pair = EncodedPair(*(np.full(length, token, dtype=np.int32) for length, token in parts))
    return Example(pair, weight, place=chosen)


def test_an_epoch_visits_every_pair_once() -> None:
    order = BatchOrder(count=10, batch_size=4, seed=1)
    first = [order.indices(step) for step in range(3)]
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(chain(*first)) == list(range(10))
    second = [order.indices(step) for step in range(3, 6)]
    assert sorted(chain(*second)) == list(range(10))
    assert first != second
    assert BatchOrder(10, 4, seed=2).indices(0) != first[0]
    assert BatchOrder(10, 4, seed=1).indices(4) == second[1]


def test_answers_are_labelled_and_padding_is_masked() -> None:
    batch = collate([example(2, 3, 1), example(1, 1, 2, weight=0.5)], pad_id=9)
    assert batch.input_ids.tolist() == [[1, 1, 2, 2, 2], [1, 2, 9, 9, 9], [1, 1, 3, 9, 9], [1, 3, 3, 9, 9]]
    assert batch.attention_mask.tolist() == [[1] * 5, [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]
    assert batch.labels.tolist() == [
        [IGNORE, IGNORE, 2, 2, 2],
        [IGNORE, 2, IGNORE, IGNORE, IGNORE],
        [IGNORE, IGNORE, 3, IGNORE, IGNORE],
        [IGNORE, 3, 3, IGNORE, IGNORE],
    ]
    assert (batch.weights.tolist(), batch.places.tolist()) == ([1.0, 0.5], [3, 1])


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 4, 7])
def test_processes_share_a_batch_without_loss_and_in_step(processes: int, count: int) -> None:
    pairs = [example(1, length, 1) for length in range(1, count + 1)]
    shares = [list(micro_batches(pairs, 2, rank, processes, 0)) for rank in range(processes)]
    assert len({len(share) for share in shares}) == 1
    counted = [b for share in shares for b in share if b.weights.sum() > 0]
    lengths = [int(length) for b in counted for length in (b.labels[: len(b.weights)] != IGNORE).sum(-1)]
    assert sorted(lengths) == list(range(1, count + 1))
