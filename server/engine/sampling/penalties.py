"""What is done to mixed logits before the draw: bias and masks first, then penalties for tokens that were there before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from server.engine.transfer import upload

if TYPE_CHECKING:
    from server.engine.request import SamplingParams


class History:
    """Which tokens a context holds: those of the base's prompt, and how often each is in the response."""

    def __init__(self, prompt: Iterable[int]) -> None:
        self._prompt = sorted(set(prompt))
        self._response: Counter[int] = Counter()

    def append(self, token: int) -> None:
        """A token more in the response."""
        self._response[token] += 1

    def penalize(self, logits: torch.Tensor, sampling: SamplingParams) -> None:
        """Change ``logits`` [vocab] in place: ``z − presence − count · frequency`` for tokens of the response, then
        ``z / r`` where that is positive and ``z · r`` elsewhere, for tokens of prompt and response.
        """
        if self._response and (sampling.presence_penalty or sampling.frequency_penalty):
            tokens = torch.tensor(list(self._response), device=logits.device)
            counts = torch.tensor(list(self._response.values()), dtype=logits.dtype, device=logits.device)
            logits[tokens] -= sampling.presence_penalty + counts * sampling.frequency_penalty
        if sampling.repetition_penalty != 1.0:
            held = torch.tensor(
                [*self._prompt, *(self._response.keys() - set(self._prompt))], device=logits.device
            )
            values = logits[held]
            factor = sampling.repetition_penalty
            logits[held] = torch.where(values > 0, values / factor, values * factor)


def adjust(
    logits: torch.Tensor,
    sampling: SamplingParams,
    drawn: int,
    history: History | None,
    allowed: torch.Tensor | None,
) -> None:
    """Change one row of mixed logits [vocab] in place, as its request asks.

    Args:
        drawn: tokens of the response so far; stop tokens wait until there are ``min_tokens``, unless nothing else is allowed.
        history: for the penalties, where there are any.
        allowed: [vocab] bool of the grammar; other tokens get -inf.
    """
    if sampling.logit_bias:
        tokens = upload(list(sampling.logit_bias), logits.device, torch.long)
        logits[tokens] += upload(list(sampling.logit_bias.values()), logits.device, logits.dtype)
    if allowed is not None:
        logits.masked_fill_(~allowed.to(logits.device), -torch.inf)
    if drawn < sampling.min_tokens and sampling.stop_token_ids:
        stops = upload(sorted(sampling.stop_token_ids), logits.device, torch.long)
        kept = logits[stops]
        logits.index_fill_(0, stops, -torch.inf)
        # Decided where the logits are, since Python would have to wait for them.
        logits[stops] = torch.where((logits == -torch.inf).all(), kept, -torch.inf)
    if history is not None:
        history.penalize(logits, sampling)
