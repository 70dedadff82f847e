"""Reward models with a scalar head: the value transformers gives a text, behind each of its tokens; all else is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from arm_models.errors import CheckpointError
from arm_models.loading import Family, ModelSource, load_family


@pytest.fixture(scope="module")
def base(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("llama", "base", seed=1)


def load(base: Path, scorer: Path) -> Family:
    return load_family(ModelSource("base", str(base)), [ModelSource("judge", str(scorer), kind="scalar")])


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral", "gpt2"])
def test_the_value_behind_every_token_is_that_of_the_text_so_far(
    kind: str, base: Path, make_scorer: Callable[..., Path]
) -> None:
    path = make_scorer(kind, "judge", seed=2)
    family = load(base, path)
    (judge,) = family.rewards
    assert (judge.scalar, judge.vocab_size, judge.input_size, family.base.scalar) == (True, 1, 300, False)
    plain = AutoModelForSequenceClassification.from_pretrained(path).eval()
    text = [9, 80, 12, 44, 7]
    with torch.no_grad():
        got = judge.model(input_ids=torch.tensor([text])).logits
        assert got.shape == (1, 5, 1)
        for length in range(1, 6):
            expected = plain(input_ids=torch.tensor([text[:length]])).logits[0, 0]
            assert got[0, length - 1, 0] == pytest.approx(expected.item(), abs=1e-5)
        kept = judge.model(input_ids=torch.tensor([text]), logits_to_keep=torch.tensor([1, 4])).logits
        torch.testing.assert_close(kept, got[:, [1, 4]])


def test_its_embedding_must_know_the_tokens_and_its_head_need_not(
    base: Path, make_scorer: Callable[..., Path], make_tokenizer: Callable[..., object]
) -> None:
    assert load(base, make_scorer("llama", "wide", seed=2, vocab_size=320)).base.vocab_size == 300
    with pytest.raises(CheckpointError, match="judge: its vocabulary is not the base's"):
        load(base, make_scorer("llama", "other", seed=2, tokenizer=make_tokenizer(size=290)))


def test_what_is_no_scorer_is_refused(
    base: Path,
    make_scorer: Callable[..., Path],
    make_adapter: Callable[..., Path],
    make_tokenizer: Callable[..., object],
    tmp_path: Path,
) -> None:
    encoder = BertForSequenceClassification(
        BertConfig(
            vocab_size=300,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            num_labels=1,
        )
    )
    encoder.save_pretrained(tmp_path / "encoder")
    make_tokenizer().save_pretrained(tmp_path / "encoder")  # type: ignore[attr-defined]
    refused = {
        make_scorer("llama", "three", seed=2, labels=3): "it has 3 labels; a scorer has one",
        base: "it is a LlamaForCausalLM; a scorer is a sequence classifier with one label",
        make_adapter(base, "adapter", 3): "it is an adapter; a scorer is a whole model",
        tmp_path / "encoder": "judge: .*encoder",
    }
    for path, message in refused.items():
        with pytest.raises(CheckpointError, match=message) as error:
            load(base, path)
        assert str(error.value).startswith(f"judge: {path}")


def test_a_classifier_is_no_base(make_scorer: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match="tensors"):
        load_family(ModelSource("base", str(make_scorer("llama", "judge", seed=2))), [])
