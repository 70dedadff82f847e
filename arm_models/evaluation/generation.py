"""Who answers when models are scored: the protocol, and a plain transformers answerer as the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

Weights = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that ends with a user turn, the weights α to answer it under, and the seed of the draw."""

    messages: tuple[Mapping[str, str], ...]
    weights: Weights
    seed: int


class Generate(Protocol):
    """Answers prompts at temperature 1, each under its own weights; the answers come in the prompts' order."""

    def __call__(self, prompts: Sequence[Prompt]) -> list[str]:
        """One text per prompt, without the end-of-sequence token."""
        ...


@dataclass(frozen=True, slots=True)
class PlainAnswerer:
    """GenARM decoding with nothing but ``transformers``: one forward of every model per step, left-padded rows.

    All models share one tokenizer and one chat template. Rows draw from softmax(z_base + Σ α_i z_i) by an inverse CDF of
    their own seeded uniforms, so a row's answer does not depend on its neighbours (up to rounding in the logits).
    """

    base: PreTrainedModel
    rewards: Mapping[str, PreTrainedModel]
    tokenizer: PreTrainedTokenizerBase
    max_tokens: int = 160
    batch_size: int = 64

    def __call__(self, prompts: Sequence[Prompt]) -> list[str]:
        """See ``Generate``."""
        texts: list[str] = []
        for start in range(0, len(prompts), self.batch_size):
            texts += self._batch(prompts[start : start + self.batch_size])
        return texts

    @torch.inference_mode()
    def _batch(self, prompts: Sequence[Prompt]) -> list[str]:
        ids, mask = self._prefix(prompts)
        rows = torch.arange(len(prompts))
        uniforms = torch.stack(
            [torch.rand(self.max_tokens, generator=torch.Generator().manual_seed(p.seed)) for p in prompts]
        )
        members = [
            (model, torch.tensor([prompt.weights.get(name, 0.0) for prompt in prompts]), DynamicCache())
            for name, model in self.rewards.items()
            if any(prompt.weights.get(name, 0.0) for prompt in prompts)
        ]
        members.insert(0, (self.base, torch.ones(len(prompts)), DynamicCache()))
        answers: list[list[int]] = [[] for _ in prompts]
        step_ids = ids
        for step in range(self.max_tokens):
            positions = (mask.cumsum(1) - 1).clamp_min(0)[:, -step_ids.shape[1] :]
            mixed = torch.zeros(len(rows), 1)
            for model, weights, cache in members:
                output = model(
                    input_ids=step_ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                mixed = mixed + weights[rows, None] * output.logits[:, -1].float()
            cumulative = mixed.double().softmax(-1).cumsum(-1)
            draws = uniforms[rows, step, None].double() * cumulative[:, -1:]
            tokens = torch.searchsorted(cumulative, draws, right=True).clamp_max(mixed.shape[-1] - 1)
            for row, token in zip(rows.tolist(), tokens[:, 0].tolist(), strict=True):
                answers[row].append(token)
            going = (tokens[:, 0] != self.tokenizer.eos_token_id).nonzero()[:, 0]
            if not len(going):
                break
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
            if len(going) < len(rows):
                rows, mask, tokens = rows[going], mask[going], tokens[going]
                for _, _, cache in members:
                    cache.batch_select_indices(going)
            step_ids = tokens
        texts: list[str] = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return texts

    def _prefix(self, prompts: Sequence[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
        """The rendered prompts, left-padded: ids and mask, [B, T] int64 each."""
        rendered = [
            self.tokenizer.apply_chat_template(
                list(prompt.messages), add_generation_prompt=True, tokenize=True, return_dict=False
            )
            for prompt in prompts
        ]
        longest = max(map(len, rendered))
        pad = self.tokenizer.pad_token_id
        ids = [[pad] * (longest - len(row)) + row for row in rendered]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rendered]
        return torch.tensor(ids), torch.tensor(mask)
