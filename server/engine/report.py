"""What is told about tokens besides the tokens: log-probs under the mix, and what guidance did to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from server.engine.divergence import kl
from server.engine.sequence import TokenLogprobs, TokenReport


def token_logprobs(logits: torch.Tensor, tokens: Sequence[int], counts: Sequence[int]) -> list[TokenLogprobs]:
    """Log-probs of ``tokens`` and of the best ``counts[i]`` tokens in each row of mixed ``logits`` [rows, vocab]."""
    log_probs = logits.log_softmax(-1)
    chosen = log_probs.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    width = min(max(counts), logits.shape[1])
    values, ids = log_probs.topk(width, dim=-1)
    rows = zip(chosen, ids.tolist(), values.tolist(), counts, strict=True)
    return [
        TokenLogprobs(logprob, tuple(zip(best[:count], best_values[:count], strict=True)))
        for logprob, best, best_values, count in rows
    ]


def token_reports(
    mixed: torch.Tensor,
    base: torch.Tensor,
    rewards: Sequence[Mapping[str, torch.Tensor]],
    tokens: Sequence[int],
    scales: Sequence[float],
) -> list[TokenReport]:
    """What guidance did to each row's token.

    Args:
        mixed, base: logits [rows, vocab] of the mix and of the base alone.
        rewards: per row, the logits [vocab] of every reward that was weighted.
        scales: per row, what ``max_kl`` left of the weights.
    """
    guided, alone = mixed.log_softmax(-1), base.log_softmax(-1)
    divergence = kl(guided, alone).tolist()
    base_top, mix_top = alone.argmax(-1).tolist(), guided.argmax(-1).tolist()
    return [
        TokenReport(
            kl=divergence[row],
            base_logprob=alone[row, token].item(),
            base_top=base_top[row],
            mix_top=mix_top[row],
            scale=scales[row],
            rewards={name: z.log_softmax(-1)[token].item() for name, z in rewards[row].items()},
        )
        for row, token in enumerate(tokens)
    ]
