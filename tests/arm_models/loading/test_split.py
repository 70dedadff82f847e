"""Models that processes share: what cannot be split is refused before anything is read; what another process holds is known by
all but its weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from arm_models.errors import CheckpointError
from arm_models.loading import ModelSource, imprint, load_family
from arm_models.loading.checkpoint import open_checkpoint
from arm_models.loading.family import _Backbone, _Loader
from arm_models.loading.split import split_over

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def base(make_checkpoint: Make) -> Path:
    return make_checkpoint("llama", "split", seed=1)


def test_a_part_for_every_process_is_asked_for(base: Path) -> None:
    config = AutoConfig.from_pretrained(base)
    assert split_over(2, config, open_checkpoint("base", str(base))).tp_size == 2


@pytest.mark.parametrize(
    ("kind", "ranks", "told"),
    [
        ("llama", 3, "its 4 attention heads cannot be divided among 3 processes"),
        ("llama", 4, "its 2 heads of keys and values cannot be divided among 4 processes"),
        ("gpt2", 2, "gpt2 has no tensor-parallel plan"),
    ],
)
def test_what_cannot_be_split_is_refused(make_checkpoint: Make, kind: str, ranks: int, told: str) -> None:
    source = ModelSource("base", str(make_checkpoint(kind, "unsplit", seed=2)), ranks=ranks)
    with pytest.raises(CheckpointError, match=rf"^base: .*{told}"):
        load_family(source, [])


def test_an_adapter_is_not_split_and_goes_on_no_split_model(
    base: Path, make_adapter: Callable[..., Path]
) -> None:
    adapter = make_adapter(base, "split-adapter", seed=3)
    with pytest.raises(CheckpointError, match="it is an adapter; only a whole model is split"):
        load_family(ModelSource("base", str(adapter), ranks=2), [])
    loader = _Loader("sdpa", lambda _: None)
    part: Any = torch.nn.Identity()
    cpu, checkpoint = torch.device("cpu"), open_checkpoint("base", str(base))
    loader.backbones.append(_Backbone(checkpoint, part, cpu, torch.float32, False, 300, 300, ranks=2))
    for here in (True, False):
        with pytest.raises(CheckpointError, match=r"^helpful: .* split over processes; .* merge it"):
            loader.load([ModelSource("helpful", str(adapter), here=here)])


@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_what_another_process_holds_is_known_but_for_its_weights(
    base: Path, make_checkpoint: Make, kind: str
) -> None:
    reward = str(make_checkpoint(kind, "elsewhere", seed=4, vocab_size=310))
    first = ModelSource("base", str(base))
    (near,) = load_family(first, [ModelSource("r", reward)]).rewards
    (far,) = load_family(first, [ModelSource("r", reward, here=False)]).rewards
    assert all(weight.is_meta for weight in far.model.parameters())
    assert far.device.type == "meta"
    for name in ("vocab_size", "input_size", "max_length", "num_layers", "num_kv_heads", "head_dim", "dtype"):
        assert getattr(far, name) == getattr(near, name), name
    assert far.tokenizer.get_vocab() == near.tokenizer.get_vocab()
    assert imprint(far).split("\0")[:2] == imprint(near).split("\0")[:2]


def test_scorers_and_conditioned_adapters_may_be_elsewhere_too(
    base: Path,
    make_checkpoint: Make,
    make_scorer: Callable[..., Path],
    make_conditioned: Callable[..., Path],
) -> None:
    other = make_checkpoint("llama", "other-backbone", seed=5)
    scorer, parm = load_family(
        ModelSource("base", str(base)),
        [
            ModelSource("score", str(make_scorer("llama", "far-scorer", seed=6)), kind="scalar", here=False),
            ModelSource(
                "parm", str(make_conditioned(other, "far-parm", seed=7)), kind="conditioned", here=False
            ),
        ],
    ).rewards
    assert (scorer.scalar, scorer.vocab_size, scorer.device.type) == (True, 1, "meta")
    assert (parm.objectives, parm.adapter) == (("helpful", "harmless"), None)
