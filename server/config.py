"""What a deployment declares: which models, which weights, which limits, where it listens.

Read once, checked whole, frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
    model_validator,
)

from arm_models.errors import UserError

MAX_WEIGHT = 100.0
"""Largest |α/β| a request or a deployment may ask for."""

HANG_SECONDS = 120.0
"""What a step of several processes may take where ``base.hang_seconds`` says nothing."""

BASE_REFERENCE = ("reference", "base")
"""The base itself, whatever folder of that name there may be."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
ModelId = Annotated[str, StringConstraints(pattern=r"^[^\s:?#][^\s:?#]{0,199}$")]
Weight = Annotated[float, Field(strict=True, ge=-MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False)]
Reference = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(strict=True, ge=1)]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]\S*$")]
Seconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Timeout = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
HostName = Annotated[
    str, StringConstraints(pattern=r"^(\*|[A-Za-z0-9][A-Za-z0-9.-]{0,252}|[0-9A-Fa-f:.]{2,45})$")
]
Origin = Annotated[
    str, StringConstraints(pattern=r"^https?://([a-z0-9.-]{1,253}|\[[0-9a-f:.]{2,45}\])(:[0-9]{1,5})?$")
]


def _in_order(bounds: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    low, high = bounds
    if low is None and high is None:
        raise ValueError("bounds nothing: must be [low, high], of which one may be null")
    if low is not None and high is not None and low > high:
        raise ValueError("must be [low, high] with low <= high")
    return bounds


def _one_or_all(value: object) -> object:
    if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError("must be 0, 1, 2 … or all")


Rank = Annotated[int | Literal["all"], PlainValidator(_one_or_all)]
"""Which process of a group: one of them, or each."""

Bounds = Annotated[tuple[Weight | None, Weight | None], AfterValidator(_in_order)]
"""Smallest and largest weight; None is no bound."""


class Section(BaseModel):
    """A part of the file: unknown keys are refused, nothing changes after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class MemberSettings(Section):
    """Where a model comes from (local folder or hub id; full model or LoRA adapter) and how it is held.

    ``rank``: where several processes share the base, which of them holds it; or "all", each reading its share of the answers.
    """

    model: Annotated[str, Field(min_length=1)]
    device: Annotated[str, StringConstraints(pattern=r"^(cpu|cuda|cuda:\d+)$")] = "cpu"
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    chat_template: str | None = None
    rank: Rank = 0


class BaseSettings(MemberSettings):
    """The model that is guided; ``negative_prompt`` gives it a second context per request, with memory of its own.

    ``tensor_parallel``: processes that its weights are split over, each with a device of its own; 1 needs no other process.
    ``hang_seconds``: what a step of several processes may take before they are thought to hang.
    """

    negative_prompt: Annotated[bool, Field(strict=True)] = False
    tensor_parallel: Annotated[int, Field(strict=True, ge=1, le=64)] = 1
    hang_seconds: Timeout | None = None  # HANG_SECONDS

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.rank != 0:
            raise ValueError("rank is for other models; the base is split over tensor_parallel processes")
        if self.tensor_parallel == 1 and self.hang_seconds is not None:
            raise ValueError("hang_seconds is for a base that is split: tensor_parallel is 1")
        if self.tensor_parallel > 1 and self.dtype == "int8":
            raise ValueError("tensor_parallel: a base in int8 cannot be split; use float32 or bfloat16")
        if self.tensor_parallel > 1 and ":" in self.device:
            raise ValueError(
                f"tensor_parallel: every process takes a GPU of its own; device is cuda, not {self.device}"
            )
        return self


class NamedSettings(MemberSettings):
    """A model under the name that requests use."""

    name: Name
    description: str = ""


class RewardSettings(NamedSettings):
    """A reward model under the name requests use; ``default`` is its weight α where a request gives none,
    ``range`` what a slider shows. With a ``reference`` ("base" or a model) the reward is log π − log π_reference.
    """

    default: Weight = 1.0
    range: tuple[Weight, Weight] = (0.0, 2.0)
    reference: Reference | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.range[0] >= self.range[1]:
            raise ValueError("range must be [low, high] with low < high")
        return self


class PolicySettings(NamedSettings):
    """A whole aligned model; ``reference`` ("base" or a model) is what it was trained from."""

    reference: Reference = "base"


class ScorerSettings(NamedSettings):
    """A reward model with a scalar head, trained on whole responses or on every prefix of them."""

    trained_on: Literal["responses", "prefixes"]


class ConditionedSettings(NamedSettings):
    """A reward model that is conditioned on a weight for each of its ``objectives``, in the adapter's order."""

    objectives: Annotated[tuple[Name, ...], Field(min_length=1, max_length=8)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in self.objectives:
            if self.objectives.count(name) > 1:
                raise ValueError(f"objectives: the name '{name}' is used twice")
        return self


class EngineSettings(Section):
    """Limits of the engine; the fields of ``server.engine.EngineConfig``."""

    max_sequences: Count = 32
    prefill_chunk: Count = 128
    max_step_tokens: Count = 512
    kv_tokens: Count | None = None
    deterministic: Annotated[bool, Field(strict=True)] = False
    cache: Literal["auto", "slabs", "pages"] = "auto"
    cuda_graphs: Annotated[bool, Field(strict=True)] = True
    gpu_memory_fraction: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.8
    cpu_cache_bytes: Count = 2 << 30
    prefix_share: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.25
    speculation: Literal["off", "rewards", "prompt", "auto"] = "off"
    max_draft: Annotated[int, Field(strict=True, ge=1, le=16)] = 4
    overlap: Annotated[bool, Field(strict=True)] | None = None


class HttpSettings(Section):
    """Where the server listens, what it lets in and how long it waits. Tokens are those of one prompt, of one answer, and of
    all prompts and answers let in; None: as many as the models allow. A timeout that is None never comes.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(strict=True, ge=0, le=65535)] = 8000
    api_key_file: str | None = None
    max_body_bytes: Count = 4 * 1024 * 1024
    max_queue: Annotated[int, Field(strict=True, ge=0)] = 256
    max_choices: Count = 16  # of one request: n times its prompts
    max_prompt_tokens: Count | None = None
    max_output_tokens: Count | None = None
    max_queue_tokens: Count | None = None
    key_share: Annotated[float, Field(strict=True, gt=0, le=1)] = (
        0.75  # of the queue, while there are several keys
    )
    queue_seconds: Timeout | None = None  # until an answer begins
    total_seconds: Timeout | None = None
    max_unread_bytes: Annotated[int, Field(strict=True, ge=64 * 1024)] = 1 << 20  # of one stream
    send_seconds: Timeout = 30.0  # a write of a stream
    drain_seconds: Seconds = 30.0
    allow_anonymous: Annotated[bool, Field(strict=True)] = False  # no keys, and yet no loopback address
    allowed_hosts: tuple[HostName, ...] = ()  # Host headers besides loopback's; "*": any; see access/hosts.py
    cors_origins: tuple[Origin, ...] = ()  # pages of which origins may call; none: no CORS headers
    open_metrics: Annotated[bool, Field(strict=True)] = False  # /metrics without a key


class Deployment(Section):
    """Everything ``genarm serve`` needs to know.

    ``presets`` are named weights, offered as model ids ``<model>:<preset>``. ``weight_ranges``: what α/β every request
    has to keep to, by name.
    """

    model: ModelId
    description: str = ""
    base: BaseSettings
    rewards: tuple[RewardSettings, ...] = ()
    policies: tuple[PolicySettings, ...] = ()
    scorers: tuple[ScorerSettings, ...] = ()
    conditioned: ConditionedSettings | None = None
    presets: Mapping[Name, Mapping[str, Weight]] = Field(default_factory=dict)
    weight_ranges: Mapping[Name, Bounds] = Field(default_factory=dict)
    threads: Count | None = None  # CPU threads of one forward; None leaves it to torch
    otlp_endpoint: Url | None = None  # the OpenTelemetry collector that gets traces
    engine: EngineSettings = EngineSettings()
    http: HttpSettings = HttpSettings()

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_names(self)
        names = self.reward_names
        for preset, weights in self.presets.items():
            for name in weights:
                if name not in names:
                    known = ", ".join(names) or "none"
                    raise ValueError(f"presets.{preset}.{name}: no reward has this name (known: {known})")
        _check_weight_ranges(self)
        _check_ranks(self)
        return self

    @property
    def reward_names(self) -> tuple[str, ...]:
        """The rewards in the order they are declared."""
        return tuple(reward.name for reward in self.rewards)

    @property
    def weighed_names(self) -> tuple[str, ...]:
        """Every name that a request's weights can have: of rewards, policies, scorers, objectives, and of the base's
        negative prompt.
        """
        models: tuple[NamedSettings, ...] = (*self.rewards, *self.policies, *self.scorers)
        objectives = self.conditioned.objectives if self.conditioned else ()
        negative = ("base.negative",) if self.base.negative_prompt else ()
        return tuple(dict.fromkeys((*(model.name for model in models), *objectives, *negative)))

    def with_rewards(self, rewards: Iterable[RewardSettings]) -> Self:
        """The same deployment with these rewards in place of its own, checked as a whole.

        Raises:
            ValidationError: they do not go with the rest of it.
        """
        return type(self).model_validate({**dict(self), "rewards": tuple(rewards)})

    def whole(self, weights: Mapping[str, float]) -> dict[str, float]:
        """``weights`` with every other reward at 0, in the order of declaration."""
        return {name: float(weights.get(name, 0.0)) for name in self.reward_names}


def _sections(deployment: Deployment) -> dict[str, tuple[NamedSettings, ...]]:
    """The models besides the base, by the section of the file that declares them."""
    return {
        "rewards": deployment.rewards,
        "policies": deployment.policies,
        "scorers": deployment.scorers,
        "conditioned": () if deployment.conditioned is None else (deployment.conditioned,),
    }


def _check_names(deployment: Deployment) -> None:
    """Every model of a deployment has a name of its own, also those that are called after another."""
    taken = {"base": "the base model", "base.negative": "the base's negative prompt"}
    sections = _sections(deployment)
    for section, models in sections.items():
        for model in models:
            if model.name in taken:
                used = taken[model.name]
                problem = f"is used twice, in {used}" if used in sections else f"is taken by {used}"
                raise ValueError(f"{section}: the name '{model.name}' {problem}")
            taken[model.name] = section
    pairs: tuple[RewardSettings | PolicySettings, ...] = (*deployment.rewards, *deployment.policies)
    for pair in pairs:
        name = f"{pair.name}.reference"
        if pair.reference not in (None, "base") and name in taken:
            raise ValueError(f"{taken[name]}: the name '{name}' is taken by the reference of '{pair.name}'")


def _check_ranks(deployment: Deployment) -> None:
    """What another process is to hold needs that process."""
    processes = deployment.base.tensor_parallel
    known = "0" if processes == 1 else f"0 to {processes - 1}, or all"
    for section, models in _sections(deployment).items():
        for model in models:
            if model.rank != 0 and (processes == 1 or (model.rank != "all" and model.rank >= processes)):
                raise ValueError(
                    f"{section}: the rank of '{model.name}' is {model.rank}, but base.tensor_parallel is {processes} "
                    f"(known: {known})"
                )


def _check_weight_ranges(deployment: Deployment) -> None:
    """Ranges are of names there are, and what is served without a word about weights keeps to them."""
    for name in deployment.weight_ranges:
        if name not in deployment.weighed_names:
            known = ", ".join(deployment.weighed_names) or "none"
            raise ValueError(f"weight_ranges.{name}: nothing with a weight has this name (known: {known})")
    served = {
        f"the default of rewards.{reward.name}": {reward.name: reward.default}
        for reward in deployment.rewards
    }
    served |= {
        f"presets.{preset}": deployment.whole(weights) for preset, weights in deployment.presets.items()
    }
    for place, weights in served.items():
        for name, weight in weights.items():
            low, high = deployment.weight_ranges.get(name, (None, None))
            if (low is not None and weight < low) or (high is not None and weight > high):
                raise ValueError(f"weight_ranges.{name}: {place} weighs it {weight:g}, which is outside")


def read_deployment(declared: Mapping[str, Any], source: str) -> Deployment:
    """Checks what was declared.

    Raises:
        UserError: one line that begins with ``source`` and names the key at fault.
    """
    try:
        return Deployment.model_validate(declared)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise UserError(f"{source}: {complaint(first['loc'], first['type'], first['msg'])}") from None


def read_config_file(path: Path) -> dict[str, Any]:
    """The YAML mapping in ``path``; model and file names relative to the file's folder are resolved.

    Raises:
        UserError: the file is missing, unreadable, not YAML or no mapping.
    """
    try:
        declared = yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeys)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: cannot be read: {reason}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(declared, dict):
        raise UserError(
            f"{path}: must be a mapping with keys such as model, base, rewards, presets, engine, http"
        )
    return _resolved(declared, path.parent)


class UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice instead of keeping the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is no text", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _resolved(declared: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Paths in a file are meant from where the file lies; a model that is no folder there stays what it is
    (a hub id).
    """

    def here(value: object, *, must_be_path: bool) -> object:
        if not isinstance(value, str) or Path(value).is_absolute():
            return value
        beside = folder / value
        return str(beside) if must_be_path or beside.exists() else value

    def member(value: object) -> object:
        if isinstance(value, str):
            value = {"model": value}
        if not isinstance(value, dict):
            return value
        paths = {"model": False, "chat_template": True, "reference": False}
        return {
            key: here(item, must_be_path=paths[key])
            if key in paths and (key, item) != BASE_REFERENCE
            else item
            for key, item in value.items()
        }

    resolved = dict(declared)
    for section in ("base", "conditioned"):
        if section in declared:
            resolved[section] = member(declared[section])
    for section in ("rewards", "policies", "scorers"):
        if isinstance(declared.get(section), list):
            resolved[section] = [member(one) for one in declared[section]]
    if isinstance(http := declared.get("http"), dict) and "api_key_file" in http:
        resolved["http"] = {**http, "api_key_file": here(http["api_key_file"], must_be_path=True)}
    return resolved


def complaint(loc: Iterable[int | str], kind: str, message: str) -> str:
    """What pydantic complains about, as one line that begins with the key's path."""
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{part}"
    if kind == "extra_forbidden":
        return f"{path}: unknown key"
    if kind == "missing":
        return f"{path}: is missing"
    text = message.removeprefix("Value error, ")
    return f"{path}: {text}" if path else text
