"""Supervised training: exact resume, only assistant turns, and an optimizer that does what its equation says."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from arm_models.demo.architecture import TINY, new_model
from arm_models.demo.muon import orthogonalised
from arm_models.demo.pretraining import PretrainingSettings, encode, pretrain
from arm_models.demo.tokenizer import train_tokenizer
from arm_models.demo.world.conversations import transcript


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(
        (turn["content"] for index in range(100) for turn in transcript(0, index)), 400, 256
    )


def train(
    tokenizer: PreTrainedTokenizerFast, steps: int, state: Path, stop: int | None = None
) -> torch.Tensor:
    """All parameters after ``steps`` steps in a row; ``stop`` raises after so many, as a kill would."""
    model = new_model(TINY, tokenizer, 0)
    reads = 0

    def read(index: int) -> tuple[dict[str, str], ...]:
        nonlocal reads
        reads += 1
        return transcript(0, index % 50)

    settings = PretrainingSettings(steps, batch_size=2, warmup=2, checkpoint_every=2)
    if stop is not None:
        original = torch.nn.utils.clip_grad_norm_
        done = 0

        def dying(*arguments: object, **named: object) -> object:
            nonlocal done
            done += 1
            if done > stop:
                raise KeyboardInterrupt
            return original(*arguments, **named)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.utils, "clip_grad_norm_", dying)
            with pytest.raises(KeyboardInterrupt):
                pretrain(model, tokenizer, read, settings, state, "test")
        return torch.empty(0)
    pretrain(model, tokenizer, read, settings, state, "test")
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_killed_training_ends_bit_equal_to_one_that_was_not(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    whole = train(tokenizer, 6, tmp_path / "whole.pt")
    train(tokenizer, 6, tmp_path / "killed.pt", stop=5)
    assert torch.equal(train(tokenizer, 6, tmp_path / "killed.pt"), whole)


def test_only_assistant_turns_and_their_end_are_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    ids, labels = encode(
        tokenizer, [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "Sure."}]
    )
    learned = [label for label in labels if label != -100]
    assert tokenizer.decode(learned) == "Sure.<|end|>"
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))


def test_training_lowers_the_loss(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = new_model(TINY, tokenizer, 0)
    settings = PretrainingSettings(60, batch_size=4, learning_rate=1e-2, warmup=5)
    loss = pretrain(
        model, tokenizer, lambda index: transcript(0, index % 8), settings, tmp_path / "s.pt", "test"
    )
    assert loss < 0.85 * torch.log(torch.tensor(float(len(tokenizer))))


def test_muon_makes_an_update_nearly_orthogonal() -> None:
    torch.manual_seed(0)
    for shape in ((8, 32), (32, 8), (16, 16)):
        update = torch.randn(shape)
        u, _, v = torch.linalg.svd(update, full_matrices=False)
        made = orthogonalised(update)
        values = torch.linalg.svdvals(made)
        assert values.min() > 0.3
        assert values.max() < 1.3
        assert torch.nn.functional.cosine_similarity(made.flatten(), (u @ v).flatten(), dim=0) > 0.9
