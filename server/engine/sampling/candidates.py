"""Scored candidates: of a row's best tokens each gets log π(v) + Σ w · r, and no other can be drawn (ARGS, arXiv 2402.01694)."""

from collections.abc import Callable, Mapping, Sequence

import torch

from server.engine.sequence import Sequence as Running
from server.engine.transfer import upload

Chosen = Mapping[int, Sequence[int]]
"""By batch row, its candidates."""

Judge = Callable[[Chosen], Mapping[int, Mapping[str, torch.Tensor]]]
"""Asks the scorers: by row and scorer, the value of each candidate [n], on any device."""


def choose(sequences: Sequence[Running], rows: Sequence[int], adjusted: torch.Tensor) -> dict[int, list[int]]:
    """The candidates of ``rows``, best first: the k best tokens of each that may be drawn, fewer where fewer may.

    Args:
        sequences: of every batch row.
        adjusted: logits [len(rows), vocab] with bias, penalties and masks.
    """
    wanted = [_k(sequences[row]) for row in rows]
    values, best = adjusted.topk(min(max(wanted), adjusted.shape[1]), dim=-1)
    possible = (values > -torch.inf).tolist()
    return {
        row: [token for token, fine in zip(tokens[:k], allowed, strict=False) if fine]
        for row, k, tokens, allowed in zip(rows, wanted, best.tolist(), possible, strict=True)
    }


def rescore(
    sequences: Sequence[Running],
    mixed: torch.Tensor,
    chosen: Chosen,
    values: Mapping[int, Mapping[str, torch.Tensor]],
) -> torch.Tensor:
    """``mixed`` [rows, vocab] with the rows of ``chosen`` scored; a row without any candidate stays as it is."""
    rows = [row for row, tokens in chosen.items() if tokens]
    if not rows:
        return mixed
    index = upload(rows, mixed.device, torch.long)
    log_probs = mixed.index_select(0, index).log_softmax(-1)
    scored = torch.full_like(log_probs, -torch.inf)
    for place, row in enumerate(rows):
        tokens = upload(chosen[row], mixed.device, torch.long)
        score = log_probs[place].index_select(0, tokens)
        for name, weight in sequences[row].scorers.items():
            score = score + weight * values[row][name].to(mixed.device)
        scored[place] = scored[place].index_copy(0, tokens, score)
    return mixed.index_copy(0, index, scored)


def _k(sequence: Running) -> int:
    assert sequence.candidates is not None
    return sequence.candidates.k
