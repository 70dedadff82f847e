"""Scores by a scalar-head reward model: transformers' own sequence classification, read at the last token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from arm_models.errors import UserError
from arm_models.loading.checkpoint import one_line, open_checkpoint

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class ScalarScorer:
    """A reward model with one output over a causal backbone, and how it reads a conversation."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 32

    @classmethod
    def load(cls, name: str, path: str, device: str = "cpu") -> ScalarScorer:
        """Read a checkpoint as ``save_pretrained`` writes it; raises ``UserError`` naming ``name`` where it is none such."""
        checkpoint = open_checkpoint(name, path)
        try:
            tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
            model = AutoModelForSequenceClassification.from_pretrained(
                checkpoint.folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(f"{name}: {Path(path)}: {one_line(error)}") from None
        if model.config.num_labels != 1:
            raise UserError(
                f"{name}: {Path(path)} has {model.config.num_labels} labels; a reward model has 1"
            )
        if not tokenizer.chat_template:
            raise UserError(f"{name}: {Path(path)} has no chat template, so it reads no conversations")
        return cls(model.to(device).eval(), tokenizer)

    @torch.inference_mode()
    def __call__(
        self, pairs: Sequence[tuple[Messages, str]], tick: Callable[[int], object] = lambda _: None
    ) -> list[float]:
        """The value behind the last token of every (conversation, answer), the answer's end-of-text token included.

        ``tick`` is told how many more are done.
        """
        rows = [self._tokens(messages, text) for messages, text in pairs]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        values = [0.0] * len(rows)
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            for index, value in zip(chosen, self._batch([rows[index] for index in chosen]), strict=True):
                values[index] = value
            tick(len(chosen))
        return values

    def _tokens(self, messages: Messages, text: str) -> list[int]:
        rendered = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer(rendered + text, add_special_tokens=False)["input_ids"]
        return [*ids, self.tokenizer.eos_token_id]

    def _batch(self, rows: Sequence[list[int]]) -> list[float]:
        """Padded on the right: behind the token that is read nothing changes what came before it."""
        longest = max(map(len, rows))
        device = self.model.device
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
        hidden = self.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(rows)), mask.sum(1) - 1]
        values: list[float] = self.model.score(last)[:, 0].float().tolist()
        return values
