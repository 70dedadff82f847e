"""From logits to the log-prob of an answer."""

from torch import Tensor, float64

IGNORE = -100
"""The label of a position that is not part of the answer: prompt and padding."""


def sequence_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Σ_t log π(y_t | x, y_<t) of every row, in nats, SUMMED over its answer tokens (the EOS is one of them).

    ``logits``: ``[B, T, V]`` of any float dtype; row t predicts position t + 1 (the shift is made here).
    ``labels``: ``[B, T]`` int64 token ids, ``IGNORE`` (-100) where a position does not count.
    Returns ``[B]`` float32 (float64 for float64 logits). Raises ``ValueError`` when the shapes do not fit.
    """
    if logits.dim() != 3 or labels.shape != logits.shape[:2]:
        raise ValueError(f"labels {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}")
    targets = labels[:, 1:]
    counted = targets != IGNORE
    scores = logits[:, :-1]
    scores = scores if scores.dtype == float64 else scores.float()
    picked = scores.gather(-1, targets.where(counted, 0).unsqueeze(-1)).squeeze(-1)
    per_token = picked - scores.logsumexp(-1)
    return per_token.where(counted, 0.0).sum(-1)


def answer_lengths(labels: Tensor) -> Tensor:
    """How many tokens ``sequence_log_probs`` sums in each row: ``[B, T]`` → ``[B]`` int64."""
    return (labels[:, 1:] != IGNORE).sum(-1)
