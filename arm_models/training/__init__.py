"""Training on preference pairs: ``train_reward(TrainConfig(…))``.

config.py        every setting, its default and what it may be
start.py         the checkpoint, tokenizer and lengths that training starts from
models/          what is trained: a language model, one with a scalar head, a conditioned adapter
pairs.py         the pairs of a run as token ids
batches.py       which pairs an update sees, as tensors
reference.py     what a loss compares with, fixed or moving
loop.py          score, step, log, evaluate, save
checkpoints.py   what is on disk: resumable states and the finished model, whole or not at all
card.py          arm.json and the model card
"""

from arm_models.training.config import TrainConfig, config_from
from arm_models.training.loop import TrainResult, train_reward

__all__ = ["TrainConfig", "TrainResult", "config_from", "train_reward"]
