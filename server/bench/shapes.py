"""The models measured: the shipped demo, or random weights of a stated shape, made on the spot."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from arm_models.demo.deployment import demo_deployment
from arm_models.errors import UserError
from arm_models.loading import ModelSource
from arm_models.loading.source import DTYPES, resolve_device

LORA_RANK = 16


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama of ``layers`` x ``hidden`` over ``vocab`` tokens.

    ``kv_heads``: None is as many as there are heads. ``intermediate``: None is 11/4 of ``hidden``. ``tied``: the head is the
    embedding.
    """

    layers: int
    hidden: int
    vocab: int
    head: int = 64
    kv_heads: int | None = None
    intermediate: int | None = None
    tied: bool = False

    def config(self) -> LlamaConfig:
        """The transformers config."""
        heads = self.hidden // self.head
        return LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate or self.hidden * 11 // 4,
            num_hidden_layers=self.layers,
            num_attention_heads=heads,
            num_key_value_heads=self.kv_heads or heads,
            head_dim=self.head,
            max_position_embeddings=4096,
            tie_word_embeddings=self.tied,
            bos_token_id=None,
            eos_token_id=0,
        )


_BILLION = Shape(16, 2048, 32000, kv_heads=8, intermediate=8192)
SHAPES = {
    "tiny": (Shape(4, 128, 2048, head=32, tied=True), Shape(4, 64, 2048, head=32, tied=True)),
    "small": (Shape(12, 512, 32000), Shape(4, 256, 32000)),
    "1b": (_BILLION, Shape(12, 512, 32000)),
    "7b": (Shape(32, 4096, 32000, head=128, kv_heads=8, intermediate=14336), _BILLION),
}
"""Name → (base, reward). Parameters: "tiny" 1.1 and 0.3 million, "small" 71 and 20 million, "1b" 1.1 billion and 71 million, "7b"
7.2 and 1.1 billion."""


class Models:
    """A base, its rewards and adapters on the base, by name: written to ``folder`` when they are first asked for.

    Args:
        name: ``demo``, or one of :data:`SHAPES`.
        folder: for what is made.
        device, dtype: as in :class:`ModelSource`, of every model.

    Raises:
        UserError: no such name, or no such device.
    """

    def __init__(self, name: str, folder: Path, device: str = "cpu", dtype: str = "auto") -> None:
        if name != "demo" and name not in SHAPES:
            raise UserError(f"--models: there is no {name!r}; there are demo, {', '.join(SHAPES)}")
        resolve_device(ModelSource("--device", "", device))
        self.name = name
        self.device = device
        self.dtype = dtype
        self._folder = folder

    @property
    def most_rewards(self) -> int | None:
        """Rewards there are; None: as many as one asks for."""
        return len(demo_deployment().rewards) if self.name == "demo" else None

    def sources(self, rewards: int) -> list[ModelSource]:
        """Base first, then ``rewards`` rewards.

        Raises:
            UserError: more rewards than the demo has, or its weights are not there.
        """
        return [self.base(), *(self._reward(number) for number in range(rewards))]

    def adapters(self, count: int) -> list[ModelSource]:
        """Base first, then ``count`` LoRA adapters on it: rank 16, all linear layers, random values other than 0."""
        base = self.base()
        made = [
            self._made(f"adapter{number}", partial(random_adapter, Path(base.path), number))
            for number in range(count)
        ]
        return [base, *(self._source(path.name, path) for path in made)]

    def base(self) -> ModelSource:
        """The base. Raises ``UserError`` as :meth:`sources`."""
        if self.name == "demo":
            demo = demo_deployment()
            if demo.missing:
                raise UserError(f"the demo models are not there: {demo.missing[0]} has no weights")
            return self._source("base", demo.base)
        return self._source("base", self._made("base", partial(self._random, SHAPES[self.name][0], 0)))

    def _reward(self, number: int) -> ModelSource:
        if self.name == "demo":
            rewards = demo_deployment().rewards
            if number >= len(rewards):
                raise UserError(f"--rewards: the demo has {len(rewards)}, not more")
            return self._source(rewards[number].name, rewards[number].path)
        shape = SHAPES[self.name][1]
        path = self._made(f"reward{number}", partial(self._random, shape, number + 1))
        return self._source(path.name, path)

    def _source(self, name: str, path: Path) -> ModelSource:
        return ModelSource(name, str(path), self.device, self.dtype)

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        folder = self._folder / name
        if not folder.is_dir():
            make(folder)
        return folder

    def _random(self, shape: Shape, seed: int, folder: Path) -> None:
        """On the device and in the dtype it is to run in: on a CPU, billions of random numbers take minutes."""
        with torch.random.fork_rng(), torch.device(self.device):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(shape.config()).to(DTYPES.get(self.dtype, torch.float32))
        with _no_bars():
            model.save_pretrained(folder)
        words = {f"w{number}": number for number in range(shape.vocab)}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="w1"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w0").save_pretrained(folder)


def random_adapter(base: Path, seed: int, folder: Path) -> None:
    """Write to ``folder``, in peft's format, a LoRA on all linear layers of the Llama in ``base`` but its head."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    linear = {
        name: module.weight.shape
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    }
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (outputs, inputs) in linear.items():
        for part, size in (("lora_A", (LORA_RANK, inputs)), ("lora_B", (outputs, LORA_RANK))):
            values = torch.randn(size, generator=generator) / 50
            tensors[f"base_model.model.{name}.{part}.weight"] = values
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base.absolute()),
        "r": LORA_RANK,
        "lora_alpha": LORA_RANK,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in linear}),
    }
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings))


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without transformers' bars, which would break the one of the command."""
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


def scratch_folder() -> "tempfile.TemporaryDirectory[str]":
    """A folder for random models that goes away after the run."""
    return tempfile.TemporaryDirectory(prefix="genarm-bench-")
