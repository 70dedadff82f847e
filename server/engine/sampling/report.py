"""What is told about tokens besides the tokens: log-probs under the mix, and what guidance did to them.

Each is measured where the logits are, as named tensors with a number per row, and read from these as lists when they have
come to Python.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from server.engine.output import TokenLogprobs, TokenReport
from server.engine.sampling.divergence import kl
from server.engine.transfer import upload


@dataclass(frozen=True, slots=True)
class RewardRows:
    """Logits [n, vocab] of one reward for the rows ``rows`` [n], which it was weighted in for."""

    logits: torch.Tensor
    rows: Sequence[int]


def token_logprobs(logits: torch.Tensor, tokens: Sequence[int], counts: Sequence[int]) -> list[TokenLogprobs]:
    """Log-probs of ``tokens`` and of the best ``counts[i]`` tokens in each row of mixed ``logits`` [rows, vocab]."""
    chosen = upload(tokens, logits.device, torch.long)
    measured = measure_logprobs(logits, chosen, max(counts))
    return read_logprobs({name: tensor.tolist() for name, tensor in measured.items()}, counts)


def measure_logprobs(logits: torch.Tensor, tokens: torch.Tensor, most: int) -> dict[str, torch.Tensor]:
    """For :func:`read_logprobs`: of ``tokens`` [rows] and of the ``most`` best in each row of mixed ``logits`` [rows, vocab]."""
    log_probs = logits.log_softmax(-1)
    values, best = log_probs.topk(min(most, logits.shape[1]), dim=-1)
    chosen = log_probs.gather(-1, tokens[:, None])[:, 0]
    return {"logprob": chosen, "best": best, "best_logprobs": values}


def read_logprobs(measured: Mapping[str, list[Any]], counts: Sequence[int]) -> list[TokenLogprobs]:
    """Row by row, with the best ``counts[row]`` tokens, those that the mix rules out left out."""
    rows = zip(measured["logprob"], measured["best"], measured["best_logprobs"], counts, strict=True)
    return [
        TokenLogprobs(logprob, tuple(_possible(best[:count], values[:count])))
        for logprob, best, values, count in rows
    ]


def _possible(tokens: Sequence[int], values: Sequence[float]) -> list[tuple[int, float]]:
    return [pair for pair in zip(tokens, values, strict=True) if pair[1] > -math.inf]


def measure_reports(
    mixed: torch.Tensor,
    base: torch.Tensor,
    rewards: Mapping[str, RewardRows],
    tokens: torch.Tensor,
    scales: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """For :func:`read_reports`: what guidance did to each row's token.

    Args:
        mixed, base: logits [rows, vocab] of the mix and of the base alone.
        tokens: [rows] int64.
        scales: [rows], what ``max_kl`` left of the weights.
    """
    guided, alone = mixed.log_softmax(-1), base.log_softmax(-1)
    measured = {
        "kl": kl(guided, alone),
        "base_logprob": alone.gather(-1, tokens[:, None])[:, 0],
        "base_top": alone.argmax(-1),
        "mix_top": guided.argmax(-1),
        "scale": scales,
    }
    for name, reward in rewards.items():
        chosen = tokens.index_select(0, upload(reward.rows, tokens.device, torch.long))
        chosen = chosen.to(reward.logits.device)
        of_token = reward.logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
        measured[_reward(name)] = of_token.to(tokens.device)
    return measured


def read_reports(
    measured: Mapping[str, list[Any]], rewards: Mapping[str, Sequence[int]]
) -> list[TokenReport]:
    """Row by row; ``rewards``: the rows that each was weighted in for."""
    own: list[dict[str, float]] = [{} for _ in measured["kl"]]
    for name, rows in rewards.items():
        for row, logprob in zip(rows, measured[_reward(name)], strict=True):
            own[row][name] = logprob
    return [
        TokenReport(
            kl=measured["kl"][row],
            base_logprob=measured["base_logprob"][row],
            base_top=measured["base_top"][row],
            mix_top=measured["mix_top"][row],
            rewards=of_rewards,
            scale=measured["scale"][row],
        )
        for row, of_rewards in enumerate(own)
    ]


def _reward(name: str) -> str:
    return f"reward {name}"
