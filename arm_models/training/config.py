"""What a training run is told: every setting, its default, its meaning, and what it may be."""

import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from types import MappingProxyType
from typing import Any, get_args

from arm_models.errors import UserError
from arm_models.losses import LOSSES, Loss, LossSettings

SCHEDULES = ("cosine", "linear", "constant", "constant_with_warmup")
DTYPES = ("float32", "bfloat16")
LORA = ("use_peft", "lora_r", "lora_alpha", "lora_dropout")
SYNC_STEPS = {"soft": 1, "hard": 512}
SOME_LOSSES = frozenset[str]().union(*(loss.settings for loss in LOSSES.values()))
"""Settings that only some losses have; the others refuse them."""


def _setting(
    default: Any, text: str, *, low: float = -math.inf, high: float = math.inf, choices: tuple[str, ...] = ()
) -> Any:
    """A field with its help and the values it may have: ``low`` ≤ value ≤ ``high``, or one of ``choices``."""
    return field(default=default, metadata={"help": text, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. Names are TRL's where TRL has one. Raises UserError naming the setting that is wrong."""

    model_name_or_path: str = _setting("", "the model to start from: a folder or a hub id (safetensors)")
    dataset_name: str = _setting("", "preference pairs: a JSONL file")
    objectives: tuple[str, ...] = _setting(
        (), "parm: the preference pairs of every objective, NAME=FILE,NAME=FILE, instead of dataset_name"
    )
    output_dir: str = _setting("", "where the reward model goes: an ordinary checkpoint or a PEFT adapter")
    reward_name: str | None = _setting(
        None, "what the reward is called in a deployment (default: the output folder's name)"
    )
    dataset_format: str = _setting("auto", "the form of the data; auto: by the first line's columns")
    eval_dataset: str | None = _setting(None, "held-out pairs of the same kind, another JSONL file")
    eval_objectives: tuple[str, ...] = _setting((), "parm: held-out pairs, NAME=FILE of every objective")
    eval_fraction: float = _setting(
        0.0, "share of the prompts of dataset_name to hold out, with all their pairs", low=0, high=0.9
    )
    eval_steps: int = _setting(0, "held-out accuracy every so many steps, too (0: at the end only)", low=0)
    chat_template_path: str | None = _setting(None, "a Jinja file that replaces the model's chat template")
    eos_token: str | None = _setting(
        None, "the token that ends an answer (default: the tokenizer's EOS token)"
    )
    max_prompt_length: int | None = _setting(
        None, "longer prompts lose their first tokens (default 512, or half of max_length)", low=1
    )
    max_length: int | None = _setting(
        None, "longer answers lose their last tokens (default 1024, or the model's positions)", low=2
    )

    loss: str = _setting("arm", "what is minimised", choices=tuple(LOSSES))
    beta: float = _setting(0.05, "β_r of the ARM loss, β of DPO (papers on DPO mostly use 0.1)", low=0)
    length_normalized: bool = _setting(False, "mean instead of summed log-probs: a variant, not the ARM loss")
    sft_weight: float = _setting(0.0, "weight of the NLL of the chosen answer, added to the loss", low=0)
    sft_reduction: str = _setting(
        "token", "that NLL per token of the answer or summed over it", choices=("token", "sequence")
    )
    prefix_reduction: str = _setting(
        "sum",
        "bt-prefix: the terms of a pair's prefixes, as in the paper summed, or averaged",
        choices=("sum", "mean"),
    )

    reference_update: str = _setting(
        "soft",
        "tr-dpo: the reference becomes a mix of itself and the policy, or the policy",
        choices=tuple(SYNC_STEPS),
    )
    reference_mixup: float = _setting(0.6, "tr-dpo, soft: the policy's share a in that mix", low=0, high=1)
    reference_sync_steps: int | None = _setting(
        None, "tr-dpo: updates from one such step to the next (default 1 if soft, 512 if hard)", low=1
    )
    pblora_r1: int = _setting(4, "parm: rank of the adapter's shared half", low=1)
    pblora_r2: int = _setting(4, "parm: rank of the half that depends on the preferences", low=1)
    pblora_scale: float = _setting(2.0, "parm: scale of the adapter", low=0)

    use_peft: bool = _setting(False, "train a LoRA adapter instead of all weights")
    lora_r: int = _setting(8, "rank of the adapter", low=1)
    lora_alpha: int = _setting(16, "scale of the adapter: alpha / r", low=1)
    lora_dropout: float = _setting(0.05, "dropout in front of the adapter", low=0, high=1)
    lora_target_modules: tuple[str, ...] = _setting(
        ("all-linear",), "names of the layers that get an adapter"
    )

    learning_rate: float | None = _setting(
        None, "peak learning rate of AdamW (default 5e-4 with use_peft, 5e-7 without)", low=0
    )
    lr_scheduler_type: str = _setting("cosine", "how the learning rate moves", choices=SCHEDULES)
    warmup_ratio: float = _setting(0.0, "share of the steps in which it rises to its peak", low=0, high=1)
    weight_decay: float = _setting(0.0, "AdamW's weight decay", low=0)
    adam_beta1: float = _setting(0.9, "AdamW's β₁", low=0, high=1)
    adam_beta2: float = _setting(0.999, "AdamW's β₂", low=0, high=1)
    adam_epsilon: float = _setting(1e-8, "AdamW's ε", low=0)
    max_grad_norm: float = _setting(1.0, "gradients are scaled down to this norm (0: never)", low=0)
    num_train_epochs: float = _setting(1.0, "passes over the data", low=0)
    max_steps: int = _setting(-1, "updates, instead of num_train_epochs", low=-1)
    per_device_train_batch_size: int = _setting(8, "pairs per forward and process", low=1)
    per_device_eval_batch_size: int = _setting(8, "the same for held-out pairs", low=1)
    gradient_accumulation_steps: int = _setting(4, "forwards per update", low=1)
    gradient_checkpointing: bool = _setting(False, "recompute activations instead of keeping them")
    dtype: str = _setting("float32", "of the start model's weights (adapters are float32)", choices=DTYPES)
    bf16: bool = _setting(False, "compute in bfloat16 where that is safe (mixed precision)")
    use_cpu: bool = _setting(False, "train on the CPU even if there is a GPU")
    seed: int = _setting(42, "of the data order, the adapter's first weights and dropout", low=0)

    logging_steps: int = _setting(10, "a line of figures every so many steps", low=1)
    save_steps: int = _setting(500, "a checkpoint to resume from every so many steps (0: none)", low=0)
    save_total_limit: int = _setting(2, "checkpoints to keep, the newest (0: all)", low=0)
    resume_from_checkpoint: str | None = _setting(
        None, "a checkpoint folder, 'last' (the newest in output_dir) or 'auto' (that, or start anew)"
    )
    overwrite_output_dir: bool = _setting(False, "replace what an earlier run left in output_dir")

    def __post_init__(self) -> None:
        for name in ("model_name_or_path", "output_dir"):
            if not getattr(self, name):
                raise UserError(f"--{name} is required")
        for setting in fields(self):
            _check_range(setting, getattr(self, setting.name))
        for setting in fields(self):
            unused = setting.name in SOME_LOSSES - self.objective.settings
            if unused and getattr(self, setting.name) != setting.default:
                raise UserError(f"{setting.name}: --loss {self.loss} has no such setting")
        if self.objective.model == "conditioned":
            self._check_conditioned()
        elif not self.dataset_name:
            raise UserError("--dataset_name is required")
        if self.reference_update == "hard" and self.reference_mixup != SETTINGS["reference_mixup"].default:
            raise UserError("reference_mixup: a hard update takes the policy as it is")
        if self.eval_files and self.eval_fraction:
            raise UserError("eval_fraction: cannot be used together with eval_dataset or eval_objectives")
        if self.eval_steps and not (self.eval_files or self.eval_fraction):
            raise UserError("eval_steps: needs eval_dataset or eval_fraction")
        if self.max_steps < 1 and not self.num_train_epochs:
            raise UserError("num_train_epochs: must be greater than 0 (or set max_steps)")

    def _check_conditioned(self) -> None:
        """Raises UserError for what a conditioned adapter cannot be trained with."""
        for name in ("dataset_name", "eval_dataset", *LORA):
            if getattr(self, name) != SETTINGS[name].default:
                raise UserError(f"{name}: --loss {self.loss} has no such setting")
        if len(self.data_files) < 2:
            raise UserError(f"objectives: --loss {self.loss} needs two or more, NAME=FILE,NAME=FILE")
        if self.eval_files and list(self.eval_files) != list(self.data_files):
            raise UserError("eval_objectives: must be the names of objectives, in their order")

    @property
    def data_files(self) -> dict[str, str]:
        """The files to train on by objective; one without a name where there are no objectives. Raises UserError."""
        return _files("objectives", self.objectives) if self.objectives else {"": self.dataset_name}

    @property
    def eval_files(self) -> dict[str, str]:
        """The held-out files, by the same names; empty where there are none. Raises UserError."""
        return _files("eval_objectives", self.eval_objectives) or (
            {"": self.eval_dataset} if self.eval_dataset else {}
        )

    @property
    def sync_steps(self) -> int:
        """``reference_sync_steps``, or what its paper uses."""
        return self.reference_sync_steps or SYNC_STEPS[self.reference_update]

    @property
    def is_adapter(self) -> bool:
        """Whether an adapter is trained, not all weights."""
        return self.use_peft or self.objective.model == "conditioned"

    @property
    def peak_learning_rate(self) -> float:
        """``learning_rate``, or what the released code uses for adapters and for full fine-tuning."""
        return self.learning_rate if self.learning_rate is not None else 5e-4 if self.is_adapter else 5e-7

    @property
    def objective(self) -> Loss:
        """The loss called ``loss``."""
        return LOSSES[self.loss]

    @property
    def loss_settings(self) -> LossSettings:
        """The settings the loss sees."""
        return LossSettings(
            self.beta, self.length_normalized, self.sft_weight, self.sft_reduction, self.prefix_reduction
        )

    def changed(self) -> dict[str, Any]:
        """The settings that are not at their default, in order."""
        values = {setting.name: (getattr(self, setting.name), setting.default) for setting in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}


SETTINGS: Mapping[str, Field[Any]] = MappingProxyType(
    {setting.name: setting for setting in fields(TrainConfig)}
)
"""Every setting of ``TrainConfig`` by name; its metadata holds help and allowed values."""


def settings() -> Mapping[str, Field[Any]]:
    """Every setting of ``TrainConfig`` by name; its metadata holds help and allowed values."""
    return SETTINGS


def config_from(values: Mapping[str, Any]) -> TrainConfig:
    """A config from YAML or parsed flags; raises UserError for an unknown key, a wrong type or value."""
    known = settings()
    for name in values:
        if name not in known:
            raise UserError(f"unknown setting {name!r}")
    return TrainConfig(**{name: typed(known[name], value) for name, value in values.items()})


def typed(setting: Field[Any], value: Any) -> Any:
    """``value`` as the setting's type. Text is read as a number where one is due: YAML takes 5e-4 for text."""
    options = get_args(setting.type) or (setting.type,)
    if value is None and type(None) in options:
        return None
    if setting.type == tuple[str, ...]:
        return _names(setting.name, value)
    target = options[0]
    if target is bool:
        return _boolean(setting.name, value)
    if target is str:
        return _text(setting.name, value)
    return _number(setting.name, value, target)


def _files(setting: str, items: tuple[str, ...]) -> dict[str, str]:
    """NAME=FILE items as a table; raises UserError for what is no such item and for a name given twice."""
    files: dict[str, str] = {}
    for item in (part for text in items for part in text.split(",")):
        name, _, file = item.partition("=")
        if not name or not file:
            raise UserError(f"{setting}: must be NAME=FILE, got {item!r}")
        if name in files:
            raise UserError(f"{setting}: {name!r} is there twice")
        files[name] = file
    return files


def _names(name: str, value: Any) -> tuple[str, ...]:
    items = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not items or not all(isinstance(item, str) for item in items):
        raise UserError(f"{name}: must be names, got {value!r}")
    return tuple(items)


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise UserError(f"{name}: must be true or false, got {value!r}")


def _text(name: str, value: Any) -> str:
    if name == "resume_from_checkpoint" and value is True:
        return "last"
    if not isinstance(value, str):
        raise UserError(f"{name}: must be text, got {value!r}")
    return value


def _number(name: str, value: Any, target: type) -> int | float:
    kind = "a whole number" if target is int else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UserError(f"{name}: must be {kind}, got {value!r}")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise UserError(f"{name}: must be {kind}, got {value!r}") from None
    if not math.isfinite(number) or (target is int and number != int(number)):
        raise UserError(f"{name}: must be {kind}, got {value!r}")
    return int(number) if target is int else number


def _check_range(setting: Field[Any], value: Any) -> None:
    choices, low, high = (setting.metadata[key] for key in ("choices", "low", "high"))
    if choices and value not in choices:
        raise UserError(f"{setting.name}: must be one of {', '.join(choices)}, got {value!r}")
    if isinstance(value, int | float) and not low <= value <= high:
        bounds = f"at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
        raise UserError(f"{setting.name}: must be {bounds}, got {value:g}")
