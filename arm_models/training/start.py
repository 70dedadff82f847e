"""What training starts from: a checkpoint, its tokenizer, and the lengths it allows."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from arm_models.errors import UserError
from arm_models.loading.checkpoint import Checkpoint, open_checkpoint
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


def is_classifier(checkpoint: Checkpoint) -> bool:
    """Whether it has a classification head instead of a vocabulary's."""
    names = checkpoint.config.get("architectures") or []
    return any("ForSequenceClassification" in str(name) for name in names)


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


@contextmanager
def quiet(report: bool = True) -> Iterator[None]:
    """No bars for loading and saving a model, and no warning that peft's authors alone can act on.

    peft 0.21 asks transformers 5.23 for a property under its old name. report: whether transformers may say which
    weights it did not find; without, a fresh head is no news.
    """
    shown, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    if not report:
        transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()
