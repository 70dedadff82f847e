"""Makes the small model that the comparison's small rewards start from: ``python -m server.comparison.pretraining``."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from transformers import AutoTokenizer

from arm_models.demo.allocator import keep_freed_memory
from arm_models.demo.architecture import new_model
from arm_models.demo.pretraining import PretrainingSettings, pretrain
from arm_models.demo.world.conversations import transcript
from server.comparison.plan import SMALL

SEED = 40
"""Of conversations that neither the base nor the shipped start model has read."""


def main(folder: Path, base: Path, steps: int, batch: int) -> None:
    """Write a model of shape ``SMALL``, with the tokenizer of ``base``, to ``folder``; goes on where it was stopped."""
    keep_freed_memory()
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = new_model(SMALL, tokenizer, SEED)
    settings = PretrainingSettings(steps, batch, learning_rate=8e-3, warmup=min(50, steps), seed=SEED)
    state = folder / "state.pt"
    pretrain(model, tokenizer, partial(transcript, SEED), settings, state, "start")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    state.unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
