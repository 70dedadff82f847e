"""A reference that does not move is the start model, read once and for all pairs that a run sees."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from arm_models.data import PairEncoder, read_pairs
from arm_models.losses import sequence_log_probs
from arm_models.training import TrainConfig, loop, train_reward
from arm_models.training.batches import Example, collate
from arm_models.training.loop import TrainingRun


@pytest.mark.parametrize("changes", [{}, {"use_peft": True, "lora_dropout": 0.5}], ids=["full", "lora"])
def test_the_reference_is_the_start_model(
    changes: dict[str, Any], make_config: Callable[..., TrainConfig], start: Path, pairs: Path
) -> None:
    runs: list[TrainingRun] = []

    class Kept(TrainingRun):
        def train(self) -> Any:
            runs.append(self)
            return super().train()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "TrainingRun", Kept)
        train_reward(make_config(loss="dpo", max_steps=3, eval_dataset=str(pairs), **changes))
    tables = runs[0].references
    model, tokenizer = AutoModelForCausalLM.from_pretrained(start), AutoTokenizer.from_pretrained(start)
    encoder = PairEncoder(tokenizer, tokenizer.eos_token_id, 64, 128)
    everything = collate([Example(encoder.encode(pair)) for pair in read_pairs(pairs).pairs], 1)
    with torch.no_grad():
        logits = model(input_ids=everything.input_ids, attention_mask=everything.attention_mask).logits
    expected = torch.stack(sequence_log_probs(logits, everything.labels).chunk(2), dim=-1)
    assert torch.allclose(tables["held_out"], expected, atol=1e-3)
    seen = ~tables["train"][:, 0].isnan()
    assert int(seen.sum()) == 48  # three updates of 16
    assert torch.allclose(tables["train"][seen], expected[seen], atol=1e-3)


def test_training_begins_where_policy_and_reference_agree(make_config: Callable[..., TrainConfig]) -> None:
    result = train_reward(make_config(loss="dpo", max_steps=1))
    assert result.results["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert result.results["margin"] == pytest.approx(0.0, abs=1e-4)
