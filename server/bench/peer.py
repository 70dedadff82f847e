"""What people do today: transformers' ``generate`` with a LogitsProcessor that runs the rewards."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

from arm_models.loading import Family, LoadedModel
from server.engine import SequenceRequest


class RewardProcessor(LogitsProcessor):  # type: ignore[misc]  # transformers is not typed
    """Adds ``Σ w · z_reward`` to the base's logits; every reward keeps its own cache and reads one token a step.

    Args:
        rewards: the models.
        weights: per row of the batch, a weight for each of them.
        mask: [rows, prompt], 0 where a prompt was padded on the left; None where none was.
    """

    def __init__(
        self,
        rewards: Sequence[LoadedModel],
        weights: Sequence[Mapping[str, float]],
        mask: torch.Tensor | None = None,
    ) -> None:
        columns = [torch.tensor([row[reward.name] for row in weights])[:, None] for reward in rewards]
        self._rewards = list(zip(rewards, columns, strict=True))
        self._caches = [DynamicCache() for _ in rewards]
        self._mask = mask
        self._read = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``input_ids`` [rows, tokens so far], ``scores`` [rows, vocab] → the mixed scores."""
        fresh, padded = input_ids[:, self._read :], self._padded(input_ids)
        self._read = input_ids.shape[1]
        for (reward, weight), cache in zip(self._rewards, self._caches, strict=True):
            out = reward.model(
                input_ids=fresh, past_key_values=cache, use_cache=True, logits_to_keep=1, **padded
            )
            scores = scores + weight.to(scores.device) * out.logits[:, -1]
        return scores

    def _padded(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """What a model has to be told about a padded batch."""
        if self._mask is None:
            return {}
        mask = torch.ones_like(input_ids)
        mask[:, : self._mask.shape[1]] = self._mask
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, self._read :]
        return {"attention_mask": mask, "position_ids": positions}


@torch.inference_mode()
def generate(family: Family, requests: Sequence[SequenceRequest], batch_size: int = 1) -> None:
    """Write every response with ``generate``, ``batch_size`` at a time: a batch ends with its longest response.

    The family must have stock attention.
    """
    for start in range(0, len(requests), batch_size):
        _generate(family, requests[start : start + batch_size])


def _generate(family: Family, requests: Sequence[SequenceRequest]) -> None:
    model: Any = family.base.model
    prompts = [list(request.prompts["base"]) for request in requests]
    longest = max(map(len, prompts))
    padding_lengths = [longest - len(prompt) for prompt in prompts]
    rows = [[0] * length + prompt for length, prompt in zip(padding_lengths, prompts, strict=True)]
    ones = [[0] * length + [1] * (longest - length) for length in padding_lengths]
    ids = torch.tensor(rows, device=family.base.device)
    mask = torch.tensor(ones, device=family.base.device)
    weights = [request.mix for request in requests]
    guided = any(row[reward.name] for row in weights for reward in family.rewards)
    padding = mask if len(requests) > 1 else None
    processors = LogitsProcessorList([RewardProcessor(family.rewards, weights, padding)] if guided else [])
    count = max(request.sampling.max_tokens for request in requests)
    torch.manual_seed(requests[0].sampling.seed)
    output = model.generate(
        ids,
        attention_mask=mask,
        logits_processor=processors,
        do_sample=True,
        top_k=0,
        temperature=1.0,
        max_new_tokens=count,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert output.shape[1] == longest + count
