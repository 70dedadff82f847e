"""Bradley-Terry on scalars is its formula, and TRL's number, on the values behind the last tokens."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from arm_models.data import PairEncoder, PreferencePair
from arm_models.losses import LOSSES, LossSettings, ScoredPairs, answer_values
from arm_models.losses.bt import bt_losses
from arm_models.training.batches import Example, collate
from arm_models.training.models.scalar import ValueReader


def test_the_loss_is_the_formula() -> None:
    lengths = torch.tensor([2, 2])
    pairs = ScoredPairs(torch.tensor([1.5, -0.5]), torch.tensor([0.25, 2.0]), lengths, lengths)
    expected = [math.log1p(math.exp(-1.25)), math.log1p(math.exp(2.5))]
    assert LOSSES["bt"].terms(pairs, LossSettings()).tolist() == pytest.approx(expected, abs=1e-6)
    assert LOSSES["bt"].margin(pairs).tolist() == [1.25, -2.5]


@pytest.mark.filterwarnings("ignore")
def test_text_to_loss_equals_trls_reward_trainer(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    folder = make_checkpoint("llama", "bt", seed=5)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [
        {"prompt": "how do I clean the oven?", "chosen": " let it cool first", "rejected": " use bleach"},
        {"prompt": "water the", "chosen": " plants", "rejected": " garden before the sun is high"},
        {"prompt": "the kettle", "chosen": " is hot; open it slowly", "rejected": " is hot"},
    ]
    settings = trl.RewardConfig(
        output_dir=str(tmp_path), max_length=128, report_to=[], use_cpu=True, disable_tqdm=True, bf16=False,
        per_device_train_batch_size=3,
    )  # fmt: skip
    trainer = trl.RewardTrainer(
        model=copy.deepcopy(model),
        args=settings,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    with torch.no_grad():
        inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(3)])
        theirs = trainer.compute_loss(trainer.model.eval(), inputs)
        encoder = PairEncoder(tokenizer, tokenizer.eos_token_id, 64, 128)
        pairs = [PreferencePair(None, row["prompt"], row["chosen"], row["rejected"]) for row in rows]
        ours = collate([Example(encoder.encode(pair)) for pair in pairs], tokenizer.pad_token_id)
        values = answer_values(ValueReader(model)(ours.input_ids, ours.attention_mask), ours.labels)
    loss = bt_losses(*values[:, -1].chunk(2)).mean()
    assert float(loss) == pytest.approx(float(theirs), abs=1e-6)
    assert abs(float(loss) - math.log(2)) > 1e-2
