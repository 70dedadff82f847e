"""What people do today: transformers' ``generate``, one prompt at a time, with a LogitsProcessor that runs the rewards."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

from arm_models.loading import Family, LoadedModel
from server.engine import SequenceRequest


class RewardProcessor(LogitsProcessor):  # type: ignore[misc]  # transformers is not typed
    """Adds ``Σ w · z_reward`` to the base's logits; every reward keeps its own cache and reads one token a step."""

    def __init__(self, rewards: Sequence[LoadedModel], weights: Sequence[float]) -> None:
        self._rewards = list(zip(rewards, weights, strict=True))
        self._caches = [DynamicCache() for _ in rewards]
        self._read = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``input_ids`` [1, tokens so far], ``scores`` [1, vocab] → the mixed scores."""
        fresh = input_ids[:, self._read :]
        self._read = input_ids.shape[1]
        for (reward, weight), cache in zip(self._rewards, self._caches, strict=True):
            out = reward.model(input_ids=fresh, past_key_values=cache, use_cache=True, logits_to_keep=1)
            scores = scores + weight * out.logits[:, -1]
        return scores


@torch.inference_mode()
def generate_one_by_one(family: Family, requests: Sequence[SequenceRequest]) -> None:
    """Write every response with ``generate``; the family must have stock attention."""
    model: Any = family.base.model
    for request in requests:
        prompt = torch.tensor([list(request.prompts["base"])])
        weights = [request.mix[reward.name] for reward in family.rewards]
        processors = LogitsProcessorList([RewardProcessor(family.rewards, weights)] if any(weights) else [])
        count = request.sampling.max_tokens
        torch.manual_seed(request.sampling.seed)
        output = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            logits_processor=processors,
            do_sample=True,
            top_k=0,
            temperature=1.0,
            max_new_tokens=count,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert output.shape[1] == prompt.shape[1] + count
