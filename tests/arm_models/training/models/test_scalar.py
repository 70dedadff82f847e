"""What a scalar loss trains reads and is written as transformers' classifiers are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from arm_models.data import EncodedPair, PairEncoder, read_pairs
from arm_models.errors import UserError
from arm_models.training import TrainConfig, train_reward
from arm_models.training.batches import Example, collate
from arm_models.training.models import load_model
from arm_models.training.start import open_start

Make = Callable[..., TrainConfig]


def encoded(folder: Path, pairs: Path, count: int) -> list[EncodedPair]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = PairEncoder(tokenizer, tokenizer.eos_token_id, 64, 128)
    return [encoder.encode(pair) for pair in read_pairs(pairs).pairs[:count]]


@torch.no_grad()
def plain_values(folder: Path, pairs: list[EncodedPair]) -> list[float]:
    """The value of every chosen answer, then of every rejected one, each read alone by transformers' own forward."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    answers = [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]
    rows = ([int(token) for ids in parts for token in ids] for parts in answers)
    return [float(model(input_ids=torch.tensor([row])).logits) for row in rows]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("changes", [{}, {"use_peft": True, "learning_rate": 2e-2}], ids=["full", "lora"])
def test_what_is_published_says_what_was_trained(
    kind: str, changes: dict[str, Any], make_config: Make, make_checkpoint: Callable[..., Path], pairs: Path
) -> None:
    start = make_checkpoint(kind, "scalar", seed=3)
    result = train_reward(make_config(loss="bt", model_name_or_path=str(start), max_steps=3, **changes))
    examples = encoded(start, pairs, 4)
    config = make_config("again", loss="bt", model_name_or_path=str(result.output_dir))
    again = load_model(config, open_start(config), None)
    again.module.eval()
    with torch.no_grad():
        scored = again.read(again.module, collate([Example(pair) for pair in examples], 1))
    said = [*scored.chosen.tolist(), *scored.rejected.tolist()]
    assert said == pytest.approx(plain_values(result.output_dir, examples), abs=1e-5)
    assert len(set(said)) > 4
    assert not (result.output_dir / "adapter_config.json").exists()


def test_a_classifier_goes_on_from_its_own_head(make_config: Make, weights_of: Callable[..., Any]) -> None:
    first = train_reward(make_config(loss="bt", max_steps=1)).output_dir
    config = make_config("second", loss="bt", model_name_or_path=str(first), max_steps=1, learning_rate=0.0)
    before, after = weights_of(first), weights_of(train_reward(config).output_dir)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_heads_that_do_not_fit_are_refused(make_config: Make, tmp_path: Path, start: Path) -> None:
    for labels, loss, message in (
        (1, "arm", "is a classification model; --loss arm"),
        (3, "bt", "more than one label"),
    ):
        folder = tmp_path / f"labels-{labels}"
        model = AutoModelForSequenceClassification.from_pretrained(start, num_labels=labels)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(start).save_pretrained(folder)
        with pytest.raises(UserError, match=message):
            train_reward(make_config(model_name_or_path=str(folder), loss=loss))
