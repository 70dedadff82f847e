"""The ARM loss is the paper's, to the last digit, and nothing else by default."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from arm_models.data import PairEncoder, PreferencePair
from arm_models.losses import (
    IGNORE,
    LossSettings,
    ScoredPairs,
    answer_lengths,
    arm_loss,
    arm_objective,
    sequence_log_probs,
)
from arm_models.training.batches import Example, collate

BETA = 0.3
EOS = 7


def reference(logits: Tensor, labels: Tensor, beta: float) -> float:
    """L = −E log σ(β(Σ log π(y^w) − Σ log π(y^l))), one token at a time; the first half of the rows is y^w."""
    rows = range(len(labels))
    sums = [
        sum(float(log_softmax(logits[i, t - 1], -1)[labels[i, t]]) for t in range(1, labels.shape[1]) if labels[i, t] >= 0)
        for i in rows
    ]  # fmt: skip
    half = len(rows) // 2
    return sum(math.log1p(math.exp(-beta * (sums[i] - sums[half + i]))) for i in range(half)) / half


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Logits [6, 9, 11] float64 and labels of three pairs: prompts of unlike lengths, an EOS, padding behind."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(6, 9, 11, generator=generator, dtype=torch.float64)
    labels = torch.full((6, 9), IGNORE)
    for row, (start, end) in enumerate([(2, 7), (3, 9), (1, 4), (2, 9), (3, 5), (1, 2)]):
        labels[row, start:end] = torch.randint(0, 7, (end - start,), generator=generator)
        labels[row, end - 1] = EOS
    return logits, labels


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    return arm_loss(*sequence_log_probs(logits, labels).chunk(2), BETA)


def test_the_loss_is_the_papers_formula(batch: tuple[Tensor, Tensor]) -> None:
    assert float(loss_of(*batch)) == pytest.approx(reference(*batch, BETA), abs=1e-12)


def test_the_eos_counts(batch: tuple[Tensor, Tensor]) -> None:
    logits, labels = batch
    without = labels.where(labels != EOS, IGNORE)
    assert abs(float(loss_of(logits, without)) - reference(logits, labels, BETA)) > 1e-3


def test_log_probs_are_summed_not_averaged(batch: tuple[Tensor, Tensor]) -> None:
    logits, labels = batch
    scores = sequence_log_probs(logits, labels)
    assert answer_lengths(labels).tolist() == [5, 6, 3, 7, 2, 1]
    averaged = arm_loss(*(scores / answer_lengths(labels)).chunk(2), BETA)
    assert abs(float(averaged) - reference(logits, labels, BETA)) > 1e-3


def test_prompt_and_padding_do_not_count(batch: tuple[Tensor, Tensor]) -> None:
    logits, labels = batch
    changed = logits.clone()
    counted = torch.zeros_like(labels, dtype=torch.bool)
    counted[:, :-1] = labels[:, 1:] != IGNORE
    changed[~counted] = 50 * torch.randn(int((~counted).sum()), 11, dtype=torch.float64)
    assert torch.equal(sequence_log_probs(changed, labels), sequence_log_probs(logits, labels))


def test_half_precision_logits_are_summed_in_float32(batch: tuple[Tensor, Tensor]) -> None:
    logits, labels = batch
    low = logits.to(torch.bfloat16)
    expected = sequence_log_probs(low.double(), labels)
    assert sequence_log_probs(low, labels).dtype == torch.float32
    assert torch.allclose(sequence_log_probs(low, labels).double(), expected, atol=1e-5)


def test_labels_that_do_not_fit_are_refused(batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="do not fit logits"):
        sequence_log_probs(batch[0], batch[1][:, :-1])


def scored(batch: tuple[Tensor, Tensor]) -> ScoredPairs:
    return ScoredPairs(*sequence_log_probs(*batch).chunk(2), *answer_lengths(batch[1]).chunk(2))


def test_by_default_the_objective_is_the_loss_alone(batch: tuple[Tensor, Tensor]) -> None:
    assert float(arm_objective(scored(batch), LossSettings(beta=BETA)).mean()) == float(loss_of(*batch))


def test_the_sft_term_is_the_chosen_answers_nll(batch: tuple[Tensor, Tensor]) -> None:
    pairs = scored(batch)
    plain = arm_objective(pairs, LossSettings(beta=BETA))
    summed = arm_objective(pairs, LossSettings(beta=BETA, sft_weight=0.5, sft_reduction="sequence"))
    per_token = arm_objective(pairs, LossSettings(beta=BETA, sft_weight=0.5))
    assert torch.allclose(summed - plain, -0.5 * pairs.chosen)
    assert torch.allclose(per_token - plain, -0.5 * pairs.chosen / torch.tensor([5, 6, 3]))


def test_the_length_normalised_variant_averages(batch: tuple[Tensor, Tensor]) -> None:
    pairs = scored(batch)
    expected = arm_loss(pairs.chosen / pairs.chosen_length, pairs.rejected / pairs.rejected_length, BETA)
    assert float(arm_objective(pairs, LossSettings(BETA, length_normalized=True)).mean()) == float(expected)


@pytest.mark.filterwarnings("ignore")
def test_text_to_loss_equals_trls_cpo(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """CPO with loss_type sigmoid and cpo_alpha 0 is the ARM loss: same tokens, same EOS, same number to 1e-6."""
    datasets = pytest.importorskip("datasets")
    cpo = pytest.importorskip("trl.experimental.cpo")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_checkpoint("llama", "cpo", seed=5)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [
        {"prompt": "how do I clean the oven?", "chosen": " let it cool first", "rejected": " use bleach"},
        {"prompt": "water the", "chosen": " plants", "rejected": " garden before the sun is high"},
        {"prompt": "the kettle", "chosen": " is hot; open it slowly", "rejected": " is hot"},
    ]
    settings = cpo.CPOConfig(
        output_dir=str(tmp_path), loss_type="sigmoid", cpo_alpha=0.0, beta=BETA, max_length=128, report_to=[],
        use_cpu=True, per_device_train_batch_size=3, remove_unused_columns=False, disable_tqdm=True, bf16=False,
    )  # fmt: skip
    trainer = cpo.CPOTrainer(
        model=model, args=settings, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer
    )
    with torch.no_grad():
        inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(3)])
        theirs, _ = trainer.get_batch_loss_metrics(model.eval(), inputs)

        encoder = PairEncoder(tokenizer, tokenizer.eos_token_id, 64, 128)
        pairs = [PreferencePair(None, row["prompt"], row["chosen"], row["rejected"]) for row in rows]
        ours = collate([Example(encoder.encode(pair)) for pair in pairs], tokenizer.pad_token_id)
        logits = model(input_ids=ours.input_ids, attention_mask=ours.attention_mask).logits
        loss = loss_of(logits, ours.labels)
        without_eos = loss_of(logits, ours.labels.where(ours.labels != tokenizer.eos_token_id, IGNORE))
    assert float(loss) == pytest.approx(float(theirs), abs=1e-6)
    assert abs(float(without_eos) - float(theirs)) > 1e-3
