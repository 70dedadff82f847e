"""The models measured: the shipped demo, or random weights of a stated shape, made on the spot."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from arm_models.demo.deployment import demo_deployment
from arm_models.errors import UserError
from arm_models.loading import ModelSource


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama of ``layers`` x ``hidden`` with heads of 64 (32 where hidden is below 256) over ``vocab`` tokens."""

    layers: int
    hidden: int
    vocab: int

    def config(self) -> LlamaConfig:
        """The transformers config."""
        head = 64 if self.hidden >= 256 else 32
        return LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.hidden * 11 // 4,
            num_hidden_layers=self.layers,
            num_attention_heads=self.hidden // head,
            num_key_value_heads=self.hidden // head,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
        )


SHAPES = {
    "tiny": (Shape(4, 128, 2048), Shape(4, 64, 2048)),
    "small": (Shape(12, 512, 32000), Shape(4, 256, 32000)),
}
"""Name → (base, reward). "small" is a base of 54 million parameters with rewards of 12 million."""


def model_sources(name: str, rewards: int, folder: Path) -> list[ModelSource]:
    """Base first, then ``rewards`` rewards: ``demo``, or a name of :data:`SHAPES` written to ``folder``.

    Raises:
        UserError: no such name, or more rewards than the demo has.
    """
    if name == "demo":
        return _demo_sources(rewards)
    if name not in SHAPES:
        raise UserError(f"--models: there is no {name!r}; there are demo, {', '.join(SHAPES)}")
    base, reward = SHAPES[name]
    names = ["base", *(f"reward{number}" for number in range(rewards))]
    return [
        ModelSource(label, str(_random_model(base if seed == 0 else reward, seed, folder / label)))
        for seed, label in enumerate(names)
    ]


def _demo_sources(rewards: int) -> list[ModelSource]:
    demo = demo_deployment()
    if demo.missing:
        raise UserError(f"the demo models are not there: {demo.missing[0]} has no weights")
    if rewards > len(demo.rewards):
        raise UserError(f"--rewards: the demo has {len(demo.rewards)}, not {rewards}")
    chosen = [ModelSource(reward.name, str(reward.path)) for reward in demo.rewards[:rewards]]
    return [ModelSource("base", str(demo.base)), *chosen]


def _random_model(shape: Shape, seed: int, folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(shape.config()).save_pretrained(folder)
    words = {f"w{number}": number for number in range(shape.vocab)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w1")), eos_token="w0"
    )
    tokenizer.save_pretrained(folder)
    return folder


def scratch_folder() -> "tempfile.TemporaryDirectory[str]":
    """A folder for random models that goes away after the run."""
    return tempfile.TemporaryDirectory(prefix="genarm-bench-")
