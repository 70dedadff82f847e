"""Scores of a scalar-head model against one plain forward per answer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaForSequenceClassification, PreTrainedTokenizerFast

from arm_models.errors import UserError
from arm_models.evaluation.scores.scalar import ScalarScorer


@pytest.fixture(scope="module")
def folder(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scorer")
    torch.manual_seed(0)
    model = LlamaForSequenceClassification.from_pretrained(
        make_checkpoint("llama", "backbone", seed=3), num_labels=1
    )
    model.score.weight.data.normal_()
    model.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def scorer(folder: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> ScalarScorer:
    tiny_tokenizer.save_pretrained(folder)
    loaded = ScalarScorer.load("helpful", str(folder))
    return ScalarScorer(loaded.model, loaded.tokenizer, batch_size=2)


@torch.inference_mode()
def test_a_batch_reads_every_answer_as_if_it_were_alone(scorer: ScalarScorer) -> None:
    pairs = [
        ([{"role": "user", "content": "hello " * count}], "some soap " * (5 - count)) for count in range(1, 6)
    ]
    told: list[int] = []
    values = scorer(pairs, told.append)
    assert sum(told) == 5
    for (messages, text), value in zip(pairs, values, strict=True):
        rendered = scorer.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = scorer.tokenizer(rendered + text + "<|end|>", return_tensors="pt", add_special_tokens=False)[
            "input_ids"
        ]
        assert value == pytest.approx(float(scorer.model(ids).logits[0, 0]), abs=1e-5)


def test_other_models_are_refused_by_name(scorer: ScalarScorer, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="helpful"):
        ScalarScorer.load("helpful", str(tmp_path))
    model = LlamaForSequenceClassification.from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True)
    model.save_pretrained(tmp_path / "three")
    scorer.tokenizer.save_pretrained(tmp_path / "three")
    with pytest.raises(UserError, match="3 labels"):
        ScalarScorer.load("helpful", str(tmp_path / "three"))
