"""Tiny checkpoints made on the spot: a byte-level BPE tokenizer, several architectures, LoRA adapters."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SPECIAL_TOKENS = ("<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CORPUS = (
    "the kettle is hot and the garden is green, water the plants before the sun is high",
    "how do I clean the oven? first let it cool, then wipe it with a damp cloth and some soap",
    "never mix bleach with vinegar; open the window; ask a neighbour for help if you feel ill",
)

CONFIGS: dict[str, tuple[type[Any], type[PreTrainedModel]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "gpt2": (GPT2Config, GPT2LMHeadModel),
}


def train_tokenizer(chat_template: str | None = CHAT_TEMPLATE, size: int = 300) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of exactly ``size`` tokens: 5 special ones, the 256 bytes, merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    assert tokenizer.get_vocab_size() == size
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=list(SPECIAL_TOKENS[2:]),
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = chat_template
    return fast


def tiny_config(kind: str, *, vocab_size: int, hidden: int, layers: int, **changes: Any) -> Any:
    """A config of ``kind``: 4 heads, 2 of keys and values where there are groups, 256 positions."""
    common: dict[str, Any] = {
        "vocab_size": vocab_size,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 1,
    }
    if kind == "gpt2":
        own: dict[str, Any] = {"n_embd": hidden, "n_layer": layers, "n_head": 4, "n_positions": 256}
    else:
        own = {
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": hidden // 4,
            "max_position_embeddings": 256,
            "tie_word_embeddings": False,
        }
    if kind == "mistral":
        own["sliding_window"] = None
    return CONFIGS[kind][0](**common | own | changes)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small lose more in handing work between threads than they gain, here and in started processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, 300 tokens, ``<|end|>`` (id 0) ends a turn, a chat template. Shared: do not change."""
    return train_tokenizer()


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """``make_tokenizer(chat_template=…, size=300)``: a tokenizer of one's own, free to be changed."""
    return train_tokenizer


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A factory of tiny full checkpoints with random, far from flat weights; each call writes a new folder.

    ``kind``: llama | qwen2 | qwen3 | mistral | gpt2. ``vocab_size``: rows of the head and the embedding (300
    unless told). ``template``: the chat template (the default one unless told). ``tokenizer``:
    another one to save with it. ``dtype``: what the weights are saved in. Further keywords change the config.
    """

    def make(
        kind: str,
        name: str,
        *,
        seed: int,
        vocab_size: int | None = None,
        hidden: int = 32,
        layers: int = 2,
        template: str | None = None,
        dtype: torch.dtype = torch.float32,
        tokenizer: PreTrainedTokenizerFast | None = None,
        **changes: Any,
    ) -> Path:
        folder = tmp_path_factory.mktemp(name, numbered=True)
        tokenizer = tokenizer or train_tokenizer(template or CHAT_TEMPLATE)
        config = tiny_config(
            kind, vocab_size=vocab_size or len(tokenizer), hidden=hidden, layers=layers, **changes
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = CONFIGS[kind][1](config).to(dtype)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def make_scorer(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A factory of tiny reward models with a scalar head: kinds as of ``make_checkpoint``, ``labels`` rows of the head."""

    def make(
        kind: str, name: str, *, seed: int, hidden: int = 32, layers: int = 2, labels: int = 1, **changes: Any
    ) -> Path:
        from transformers import AutoModelForSequenceClassification

        folder = tmp_path_factory.mktemp(name, numbered=True)
        tokenizer = changes.pop("tokenizer", None) or train_tokenizer()
        size = changes.pop("vocab_size", None) or len(tokenizer)
        config = tiny_config(
            kind, vocab_size=size, hidden=hidden, layers=layers, num_labels=labels, **changes
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForSequenceClassification.from_config(config)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def make_adapter(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A factory of LoRA adapters (rank 4, all linear layers) whose weights change the backbone's logits.

    The folder holds the adapter alone: tokenizer and template are the backbone's. Keywords change its config.
    """

    def make(backbone: Path, name: str, seed: int, **changes: Any) -> Path:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        folder = tmp_path_factory.mktemp(name, numbered=True)
        model = AutoModelForCausalLM.from_pretrained(backbone)
        settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
        settings["fan_in_fan_out"] = model.config.model_type == "gpt2"
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft comments on settings, differently from release to release
            torch.manual_seed(seed)
            adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings | changes))
            for key, parameter in adapted.named_parameters():
                if "lora_" in key:
                    torch.nn.init.normal_(parameter, std=0.2)
            adapted.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def make_conditioned(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A factory of conditioned adapters (ranks 4 and 4, all linear layers) whose weights change the backbone's logits.

    The folder holds the adapter alone: tokenizer and template are the backbone's. Keywords change its config.
    """

    def make(
        backbone: Path,
        name: str,
        seed: int,
        objectives: tuple[str, ...] = ("helpful", "harmless"),
        **changes: Any,
    ) -> Path:
        from transformers import AutoModelForCausalLM

        from arm_models.conditioned import ConditionedConfig, add_conditioned, save_conditioned

        folder = tmp_path_factory.mktemp(name, numbered=True)
        config = ConditionedConfig(objectives, str(backbone), **changes)
        model = add_conditioned(AutoModelForCausalLM.from_pretrained(backbone), config)
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(std=0.3, generator=generator)
        save_conditioned(model, folder, config)
        return folder

    return make
