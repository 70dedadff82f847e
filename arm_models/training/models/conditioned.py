"""A conditioned adapter (PBLoRA) on a frozen language model under training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from arm_models.conditioned import (
    ConditionedConfig,
    add_conditioned,
    load_conditioned,
    save_conditioned,
    set_condition,
)
from arm_models.loading.checkpoint import Checkpoint, open_checkpoint
from arm_models.training.config import TrainConfig
from arm_models.training.models.language import LanguageModel, load_language_model
from arm_models.training.models.lora import backbone_name, target_modules


class ConditionedModel(LanguageModel):
    """What it says of an answer is its summed log-prob under the preference vector that was set last."""

    _settings: ConditionedConfig

    def condition(self, preference: Sequence[float]) -> None:
        """Read with these preferences over the objectives from now on."""
        device = next(iter(self.trained.values())).device
        set_condition(self.module, torch.tensor(preference, dtype=torch.float32, device=device))

    def save(self, folder: Path) -> None:
        """The adapter."""
        save_conditioned(self.module, folder, self._settings)

    def _load(self, config: TrainConfig, start: Checkpoint, resume: Path | None) -> Any:
        backbone = load_language_model(start.folder, config.dtype)
        self._settings = ConditionedConfig(
            objectives=tuple(config.data_files),
            base_model_name_or_path=backbone_name(config, start),
            r1=config.pblora_r1,
            r2=config.pblora_r2,
            scale=config.pblora_scale,
            target_modules=target_modules(config, backbone),
        )
        if resume is None:
            return add_conditioned(backbone, self._settings)
        backbone.requires_grad_(False)
        return load_conditioned(backbone, open_checkpoint("resume_from_checkpoint", str(resume)))
