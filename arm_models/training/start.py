"""What training starts from: the model in full or under a fresh adapter, its tokenizer, and the lengths it allows."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from arm_models.errors import UserError
from arm_models.loading.checkpoint import Checkpoint, one_line, open_checkpoint
from arm_models.loading.vocabulary import load_tokenizer
from arm_models.training.config import TrainConfig


@dataclass(frozen=True)
class Limits:
    """The longest prompt, and prompt and answer together, in tokens."""

    prompt: int
    total: int


def open_start(config: TrainConfig) -> Checkpoint:
    """The checkpoint that training starts from; raises CheckpointError, UserError for an adapter."""
    checkpoint = open_checkpoint("model_name_or_path", config.model_name_or_path)
    if checkpoint.is_adapter:
        raise UserError(
            f"model_name_or_path: {checkpoint.folder} is an adapter; start from a full model, such as its backbone"
        )
    return checkpoint


def start_tokenizer(config: TrainConfig, checkpoint: Checkpoint) -> tuple[PreTrainedTokenizerBase, int]:
    """(the tokenizer that is saved with the reward, the id that ends an answer); raises UserError."""
    tokenizer = load_tokenizer(checkpoint, None, config.chat_template_path)
    if config.eos_token is not None:
        if config.eos_token not in tokenizer.get_vocab():
            raise UserError(f"eos_token: the tokenizer has no token {config.eos_token!r}")
        tokenizer.eos_token = config.eos_token
    if tokenizer.eos_token_id is None:
        raise UserError("eos_token: the tokenizer has none; name the token that ends an answer")
    return tokenizer, int(tokenizer.eos_token_id)


def length_limits(config: TrainConfig, positions: int | None) -> Limits:
    """What ``max_length`` and ``max_prompt_length`` come to for a model of so many ``positions``; raises UserError."""
    total = config.max_length or min(1024, positions or 1024)
    if positions is not None and total > positions:
        raise UserError(f"max_length: {total} is more than the model's {positions} positions")
    prompt = config.max_prompt_length or min(512, max(1, total // 2))
    if prompt >= total:
        raise UserError(f"max_prompt_length: {prompt} leaves no room for an answer in max_length {total}")
    return Limits(prompt, total)


def load_trainable(config: TrainConfig, start: Checkpoint, resume: Path | None) -> Any:
    """The model to train, on the CPU: all weights, or an adapter on frozen ones; from ``resume``'s where given."""
    with quiet():
        if not config.use_peft:
            return load_weights(resume or start.folder, config.dtype)
        backbone = load_weights(start.folder, config.dtype)
        if resume is not None:
            return PeftModel.from_pretrained(backbone, resume, is_trainable=True)
        return get_peft_model(backbone, lora_config(config, backbone, start))


def load_weights(folder: Path, dtype: str) -> Any:
    """A causal language model from safetensors; raises UserError where transformers cannot build it."""
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"model_name_or_path: {folder}: {one_line(error)}") from error


def lora_config(config: TrainConfig, backbone: Any, start: Checkpoint) -> LoraConfig:
    """LoRA as the settings ask for it; raises UserError where no layer of the model has a target's name."""
    targets = config.lora_target_modules
    names = {name.rsplit(".", 1)[-1] for name, _ in backbone.named_modules()}
    unknown = [target for target in targets if target != "all-linear" and target not in names]
    if unknown:
        raise UserError(f"lora_target_modules: the model has no layer named {unknown[0]!r}")
    local = Path(config.model_name_or_path).expanduser().is_dir()
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear" if "all-linear" in targets else list(targets),
        base_model_name_or_path=str(start.folder) if local else config.model_name_or_path,
        fan_in_fan_out=backbone.config.model_type == "gpt2",
    )


@contextmanager
def quiet() -> Iterator[None]:
    """No bars for loading and saving a model, and no warning that peft's authors alone can act on.

    peft 0.21 asks transformers 5.23 for a property under its old name.
    """
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
