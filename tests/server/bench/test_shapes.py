"""The models have the sizes they are called by, and adapters that do something."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from arm_models.errors import UserError
from arm_models.loading import load_family
from server.bench.shapes import SHAPES, Models


@pytest.mark.parametrize(
    ("name", "millions"),
    [("tiny", (1.07, 0.33)), ("small", (71.3, 19.6)), ("1b", (1104.2, 71.3)), ("7b", (7241.7, 1104.2))],
)
def test_shapes_have_so_many_million_parameters(name: str, millions: tuple[float, float]) -> None:
    for shape, expected in zip(SHAPES[name], millions, strict=True):
        with torch.device("meta"):
            model = LlamaForCausalLM(shape.config())
        count = sum(parameter.numel() for parameter in model.parameters())
        assert count / 1e6 == pytest.approx(expected, rel=0.02)


def test_text_is_read_back_as_the_tokens_it_was_made_of(models: Models) -> None:
    tokenizer = load_family(models.base(), []).base.tokenizer
    assert tokenizer(tokenizer.decode([5, 17, 3]))["input_ids"] == [5, 17, 3]


def test_adapters_lie_on_the_base_and_change_every_linear_layer(models: Models) -> None:
    sources = models.adapters(2)
    family = load_family(sources[0], sources[1:])
    assert all(reward.model is family.base.model for reward in family.rewards)
    layers = SHAPES["tiny"][0].layers
    for number, reward in enumerate(family.rewards):
        changes = [
            value
            for name, value in reward.model.named_parameters()
            if f".lora_B.{reward.adapter}." in name and bool((value != 0).any())
        ]
        assert len(changes) == 7 * layers, number
    ids = torch.tensor([[5, 6, 7]])
    logits = []
    for member in (family.base, *family.rewards):
        member.activate()
        with torch.no_grad():
            logits.append(member.model(input_ids=ids).logits)
    assert all(torch.isfinite(one).all() for one in logits)
    assert not torch.allclose(logits[0], logits[1])
    assert not torch.allclose(logits[1], logits[2])


def test_models_are_made_once(models: Models) -> None:
    assert models.sources(1) == models.sources(1)
    assert models.sources(2)[:2] == models.sources(1)


def test_what_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no 'huge'; there are demo, tiny, small, 1b, 7b"):
        Models("huge", tmp_path)
    with pytest.raises(UserError, match="--device: device 'cuda:99' is not there"):
        Models("tiny", tmp_path, device="cuda:99")
    with pytest.raises(UserError, match="--rewards: the demo has"):
        Models("demo", tmp_path).sources(99)
