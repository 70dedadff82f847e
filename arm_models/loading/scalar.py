"""Reward models with a scalar head: a sequence classifier of one label on a decoder, called as a language model is."""

from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PretrainedConfig
from transformers.modeling_outputs import CausalLMOutput

SUFFIX = "ForSequenceClassification"
"""How transformers' classifiers are called."""


class ScalarModel(torch.nn.Module):
    """A classifier of transformers with one label, whose value is given behind any token instead of a text's last only.

    It has the parts by which a causal language model is taken apart: ``model`` (the decoder), ``lm_head`` (one row), ``config``.
    """

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier = classifier

    @property
    def config(self) -> Any:
        """The classifier's."""
        return self.classifier.config

    @property
    def model(self) -> Any:
        """The decoder below the head."""
        return self.classifier.base_model

    @property
    def lm_head(self) -> Any:
        """The head [1, hidden]; an attribute error for a classifier whose head is more than one matrix."""
        return self.classifier.score

    def get_input_embeddings(self) -> Any:
        """The decoder's."""
        return self.classifier.get_input_embeddings()

    def set_attn_implementation(self, name: str) -> None:
        """As transformers' models."""
        self.classifier.set_attn_implementation(name)

    def forward(
        self, input_ids: torch.Tensor, logits_to_keep: int | torch.Tensor = 0, **options: Any
    ) -> CausalLMOutput:
        """``input_ids`` [1, n] → ``logits`` [1, kept, 1], the value behind each of the tokens ``logits_to_keep`` (0: all)."""
        hidden = self.model(input_ids=input_ids, **options)[0]
        if isinstance(logits_to_keep, torch.Tensor):
            hidden = hidden[:, logits_to_keep]
        return CausalLMOutput(logits=self.lm_head(hidden))


def scalar_from_config(config: PretrainedConfig, attention: str) -> ScalarModel:
    """A model of this config without its weights, for a look at its attention. Raises what transformers does."""
    return ScalarModel(
        AutoModelForSequenceClassification.from_config(
            config, attn_implementation=attention, trust_remote_code=False
        )
    )


def complaint(config: PretrainedConfig) -> str | None:
    """Why a checkpoint with this config is no reward model with a scalar head, where it is none."""
    names = [str(name) for name in config.architectures or ()]
    if not any(name.endswith(SUFFIX) for name in names):
        found = f"a {', '.join(names)}" if names else "of unknown architecture"
        return f"it is {found}; a scorer is a sequence classifier with one label ({SUFFIX})"
    if config.num_labels != 1:
        return f"it has {config.num_labels} labels; a scorer has one, the value of a text"
    return None
