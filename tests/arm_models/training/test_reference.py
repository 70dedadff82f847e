"""A fixed reference is the start model, read once for all pairs that a run sees; a moving one moves as stated."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from arm_models.data import PairEncoder, read_pairs
from arm_models.losses import sequence_log_probs
from arm_models.training import TrainConfig, loop, train_reward
from arm_models.training.batches import Example, collate
from arm_models.training.loop import TrainingRun
from arm_models.training.reference import MovingReference

Make = Callable[..., TrainConfig]


def observed(config: TrainConfig, after_update: Callable[[TrainingRun], None]) -> TrainingRun:
    """The run of ``config``, looked at after every update."""
    runs: list[TrainingRun] = []

    class Observed(TrainingRun):
        def train(self) -> Any:
            runs.append(self)
            return super().train()

        def update(self, batch: Any) -> Tensor:
            sums = super().update(batch)
            after_update(self)
            return sums

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "TrainingRun", Observed)
        train_reward(config)
    return runs[0]


def weights(run: TrainingRun) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in run.trained.trained.items()}


@pytest.mark.parametrize("changes", [{}, {"use_peft": True, "lora_dropout": 0.5}], ids=["full", "lora"])
def test_the_reference_is_the_start_model(
    changes: dict[str, Any], make_config: Make, start: Path, pairs: Path
) -> None:
    run = observed(make_config(loss="dpo", max_steps=3, eval_dataset=str(pairs), **changes), lambda _: None)
    assert run.reference is not None
    tables = run.reference.state
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


def test_training_begins_where_policy_and_reference_agree(make_config: Make) -> None:
    result = train_reward(make_config(loss="dpo", max_steps=1))
    assert result.results["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert result.results["margin"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reference_mixup": 0.3, "reference_sync_steps": 2},
        {"reference_update": "hard", "reference_sync_steps": 3},
        {"use_peft": True, "lora_dropout": 0.5},
    ],
    ids=["soft", "every-2", "hard", "lora"],
)
def test_a_moving_reference_moves_as_stated(changes: dict[str, Any], make_config: Make) -> None:
    config = make_config(loss="tr-dpo", max_steps=5, learning_rate=1e-2, **changes)
    policies: list[dict[str, Tensor]] = []
    before: list[dict[str, Tensor]] = []

    def note(run: TrainingRun) -> None:
        policies.append(weights(run))

    class Begun(MovingReference):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            before.append({name: weight.clone() for name, weight in self.state.items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "MovingReference", Begun)
        run = observed(config, note)
    expected = before[0]
    share = 1.0 if config.reference_update == "hard" else config.reference_mixup
    for update, policy in enumerate(policies, start=1):
        if update % config.sync_steps == 0:
            expected = {n: share * policy[n] + (1 - share) * expected[n] for n in expected}
    assert run.reference is not None and run.reference.state.keys() == expected.keys()
    assert all(torch.equal(run.reference.state[name], expected[name]) for name in expected)
    assert any(not torch.equal(expected[name], before[0][name]) for name in expected)


def test_a_moving_reference_is_read_with_its_own_weights(make_config: Make) -> None:
    """With weights that never move it is DPO's fixed reference: the same training to float32's last digits."""
    settings = {"max_steps": 6, "use_peft": True, "lora_dropout": 0.2, "learning_rate": 1e-2}
    still = train_reward(make_config("still", loss="tr-dpo", reference_mixup=0.0, **settings))
    fixed = train_reward(make_config("fixed", loss="dpo", **settings))
    moving = train_reward(make_config("moving", loss="tr-dpo", **settings))
    for name in ("loss", "margin"):
        assert still.results[name] == pytest.approx(fixed.results[name], abs=1e-3)
    assert abs(moving.results["margin"] - fixed.results["margin"]) > 0.1
