"""LoRA as the settings ask for it."""

from pathlib import Path
from typing import Any

from peft import LoraConfig

from arm_models.errors import UserError
from arm_models.loading.checkpoint import Checkpoint
from arm_models.training.config import TrainConfig


def lora_config(config: TrainConfig, backbone: Any, start: Checkpoint, task_type: str) -> LoraConfig:
    """LoRA as the settings ask for it; raises UserError where no layer of the model has a target's name."""
    targets = target_modules(config, backbone)
    return LoraConfig(
        task_type=task_type,
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear" if "all-linear" in targets else list(targets),
        base_model_name_or_path=backbone_name(config, start),
        fan_in_fan_out=backbone.config.model_type == "gpt2",
    )


def target_modules(config: TrainConfig, backbone: Any) -> tuple[str, ...]:
    """``lora_target_modules``; raises UserError where no layer of the model has a target's name."""
    targets = config.lora_target_modules
    names = {name.rsplit(".", 1)[-1] for name, _ in backbone.named_modules()}
    unknown = [target for target in targets if target != "all-linear" and target not in names]
    if unknown:
        raise UserError(f"lora_target_modules: the model has no layer named {unknown[0]!r}")
    return targets


def backbone_name(config: TrainConfig, start: Checkpoint) -> str:
    """How an adapter names the model it belongs to: its folder, or its hub id."""
    local = Path(config.model_name_or_path).expanduser().is_dir()
    return str(start.folder) if local else config.model_name_or_path
