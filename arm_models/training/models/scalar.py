"""A causal backbone with a scalar head under training, in full or under a LoRA adapter that is merged in the end."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from arm_models.errors import UserError
from arm_models.loading.checkpoint import Checkpoint, one_line
from arm_models.losses import ScoredPairs, answer_lengths, answer_values
from arm_models.training.batches import MicroBatch
from arm_models.training.config import TrainConfig
from arm_models.training.models.lora import lora_config
from arm_models.training.models.model import TrainedModel
from arm_models.training.start import is_classifier, quiet


class ScalarModel(TrainedModel):
    """A sequence classifier with one label; what it says of an answer is its value behind the last token.

    A causal language model to start from gets a fresh head. What is published is always a full checkpoint, an adapter
    merged into it, for `AutoModelForSequenceClassification` to load.
    """

    def __init__(self, config: TrainConfig, start: Checkpoint, resume: Path | None) -> None:
        if len(start.config.get("id2label") or "1") != 1 and is_classifier(start):
            raise UserError(f"model_name_or_path: {start.folder} has more than one label")
        with quiet(report=False):
            self.plain, self._classifier = self._load(config, start, resume)
        self.module = ValueReader(self.plain)
        self._adapted = config.use_peft
        self._dtype = getattr(torch, config.dtype)

    def read(self, module: Any, batch: MicroBatch) -> ScoredPairs:
        """The values behind every token of both answers, the last one as the answer's."""
        values = module(batch.input_ids, batch.attention_mask)
        chosen, rejected = answer_values(values, batch.labels).chunk(2)
        chosen_length, rejected_length = answer_lengths(batch.labels).chunk(2)
        return ScoredPairs(
            chosen[:, -1],
            rejected[:, -1],
            chosen_length,
            rejected_length,
            chosen_values=chosen,
            rejected_values=rejected,
        )

    def save(self, folder: Path) -> None:
        """The checkpoint, or the adapter with its head."""
        self._classifier.save_pretrained(folder)

    def publish(self, folder: Path, pad_id: int) -> None:
        """A full checkpoint; ``pad_id`` is how transformers finds a padded row's last token."""
        whole = self._classifier.merge_and_unload() if self._adapted else self._classifier
        if whole.config.pad_token_id is None:
            whole.config.pad_token_id = pad_id
        whole.to(self._dtype).save_pretrained(folder)

    def _load(self, config: TrainConfig, start: Checkpoint, resume: Path | None) -> tuple[Any, Any]:
        """(the classifier of transformers, what is saved: itself, or the adapter around it)."""
        if not config.use_peft:
            whole = load_classifier(resume or start.folder, config.dtype)
            return whole, whole
        whole = load_classifier(start.folder, config.dtype)
        # It is trained in full, as the adapter's float32 weights are.
        whole.score.float()
        if resume is not None:
            return whole, PeftModel.from_pretrained(whole, resume, is_trainable=True)
        return whole, get_peft_model(whole, lora_config(config, whole, start, "SEQ_CLS"))


class ValueReader(nn.Module):
    """A classifier's head behind every token, where transformers reads the last one only."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``[B, T]`` int64, right-padded → ``[B, T]`` float32 values."""
        backbone = self.classifier.base_model
        hidden = backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0]
        head = self.classifier.score
        with torch.autocast(hidden.device.type, enabled=False):
            values: Tensor = head(hidden.to(head.weight.dtype)).squeeze(-1)
        return values.float()


def load_classifier(folder: Path, dtype: str) -> Any:
    """A classifier with one label on a causal backbone; raises UserError where transformers cannot build it."""
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=1,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"model_name_or_path: {folder}: {one_line(error)}") from error
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise UserError(
            f"model_name_or_path: {folder}: {type(model).__name__} has no head that reads every token of a causal model"
        )
    return model
