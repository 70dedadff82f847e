"""DPO is the paper's formula and TRL's number, from text to loss."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from arm_models.data import PairEncoder, PreferencePair
from arm_models.losses import LOSSES, LossSettings, ScoredPairs, sequence_log_probs
from arm_models.losses.dpo import dpo_losses
from arm_models.training.batches import Example, collate

BETA = 0.3


def scored(**reference: torch.Tensor) -> ScoredPairs:
    lengths = torch.tensor([3, 5])
    return ScoredPairs(torch.tensor([-7.0, -2.5]), torch.tensor([-6.0, -9.0]), lengths, lengths, **reference)


def test_the_loss_is_the_papers_formula() -> None:
    pairs = scored(reference_chosen=torch.tensor([-9.0, -2.0]), reference_rejected=torch.tensor([-5.5, -8.0]))
    expected = [math.log1p(math.exp(-BETA * margin)) for margin in (2.0 + 0.5, -0.5 + 1.0)]
    assert LOSSES["dpo"].terms(pairs, LossSettings(BETA)).tolist() == pytest.approx(expected, abs=1e-6)
    assert LOSSES["dpo"].margin(pairs).tolist() == [2.5, 0.5]


def test_the_chosen_nll_can_be_added() -> None:
    pairs = scored(reference_chosen=torch.zeros(2), reference_rejected=torch.zeros(2))
    plain, more = (LOSSES["dpo"].terms(pairs, LossSettings(BETA, sft_weight=w)) for w in (0.0, 0.5))
    assert (more - plain).tolist() == pytest.approx([0.5 * 7 / 3, 0.5 * 2.5 / 5], abs=1e-6)


def test_pairs_without_a_reference_are_refused() -> None:
    with pytest.raises(ValueError, match="not read by a reference"):
        LOSSES["dpo"].terms(scored(), LossSettings(BETA))


@pytest.mark.filterwarnings("ignore")
def test_text_to_loss_equals_trls_dpo(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reference = AutoModelForCausalLM.from_pretrained(make_checkpoint("llama", "reference", seed=6)).eval()
    folder = make_checkpoint("llama", "dpo", seed=5)
    policy = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [
        {"prompt": "how do I clean the oven?", "chosen": " let it cool first", "rejected": " use bleach"},
        {"prompt": "water the", "chosen": " plants", "rejected": " garden before the sun is high"},
        {"prompt": "the kettle", "chosen": " is hot; open it slowly", "rejected": " is hot"},
    ]
    settings = trl.DPOConfig(
        output_dir=str(tmp_path), beta=BETA, max_length=128, report_to=[], use_cpu=True, disable_tqdm=True,
        per_device_train_batch_size=3, bf16=False,
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        model=copy.deepcopy(policy),
        ref_model=copy.deepcopy(reference),
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
        chosen, rejected, reference_chosen, reference_rejected = (
            half
            for model in (policy, reference)
            for half in sequence_log_probs(
                model(input_ids=ours.input_ids, attention_mask=ours.attention_mask).logits, ours.labels
            ).chunk(2)
        )
    loss = dpo_losses(chosen, rejected, reference_chosen, reference_rejected, BETA).mean()
    assert float(loss) == pytest.approx(float(theirs), abs=1e-6)
    assert abs(float(loss) - math.log(2)) > 1e-2
