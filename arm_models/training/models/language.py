"""A causal language model under training, in full or under a LoRA adapter."""

import inspect
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from arm_models.errors import UserError
from arm_models.loading.checkpoint import Checkpoint, one_line
from arm_models.losses import ScoredPairs, answer_lengths, sequence_log_probs
from arm_models.training.batches import MicroBatch
from arm_models.training.config import TrainConfig
from arm_models.training.models.lora import lora_config
from arm_models.training.models.model import TrainedModel
from arm_models.training.start import is_classifier, quiet


class LanguageModel(TrainedModel):
    """All weights, or an adapter on frozen ones; what it says of an answer is its summed log-prob."""

    def __init__(self, config: TrainConfig, start: Checkpoint, resume: Path | None) -> None:
        if is_classifier(start):
            raise UserError(
                f"model_name_or_path: {start.folder} is a classification model; --loss {config.loss} needs a language model"
            )
        with quiet():
            self.module = self._load(config, start, resume)
        self.plain = self.module.get_base_model() if config.use_peft else self.module
        self._keeps_logits = "logits_to_keep" in inspect.signature(self.plain.forward).parameters

    def read(self, module: Any, batch: MicroBatch) -> ScoredPairs:
        """Summed log-probs of both answers."""
        keep: dict[str, int] = {}
        labels = batch.labels
        if self._keeps_logits:
            # Logits of the shared prompt are not needed, and with a large vocabulary they are most of the memory.
            first = max(0, int((labels >= 0).int().argmax(-1).min()) - 1)
            keep = {"logits_to_keep": labels.shape[1] - first}
            labels = labels[:, first:]
        logits = module(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **keep
        ).logits
        chosen, rejected = sequence_log_probs(logits, labels).chunk(2)
        return ScoredPairs(chosen, rejected, *answer_lengths(labels).chunk(2))

    def save(self, folder: Path) -> None:
        """The checkpoint, or the adapter."""
        self.module.save_pretrained(folder)

    def _load(self, config: TrainConfig, start: Checkpoint, resume: Path | None) -> Any:
        if not config.use_peft:
            return load_language_model(resume or start.folder, config.dtype)
        backbone = load_language_model(start.folder, config.dtype)
        if resume is not None:
            return PeftModel.from_pretrained(backbone, resume, is_trainable=True)
        return get_peft_model(backbone, lora_config(config, backbone, start, "CAUSAL_LM"))


def load_language_model(folder: Path, dtype: str) -> Any:
    """A causal language model from safetensors; raises UserError where transformers cannot build it."""
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"model_name_or_path: {folder}: {one_line(error)}") from error
