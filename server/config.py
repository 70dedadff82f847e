"""What a deployment declares: which models, which weights, which limits, where it listens.

Read once, checked whole, frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from arm_models.errors import UserError

MAX_WEIGHT = 100.0
"""Largest |α/β| a request or a deployment may ask for."""

BASE_REFERENCE = ("reference", "base")
"""The base itself, whatever folder of that name there may be."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
ModelId = Annotated[str, StringConstraints(pattern=r"^[^\s:?#][^\s:?#]{0,199}$")]
Weight = Annotated[float, Field(strict=True, ge=-MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False)]
Reference = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(strict=True, ge=1)]
Seconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A part of the file: unknown keys are refused, nothing changes after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class MemberSettings(Section):
    """Where a model comes from (local folder or hub id; full model or LoRA adapter) and how it is held."""

    model: Annotated[str, Field(min_length=1)]
    device: Annotated[str, StringConstraints(pattern=r"^(cpu|cuda|cuda:\d+)$")] = "cpu"
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    chat_template: str | None = None


class BaseSettings(MemberSettings):
    """The model that is guided; ``negative_prompt`` gives it a second context per request, with memory of its own."""

    negative_prompt: Annotated[bool, Field(strict=True)] = False


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
    """Where the server listens and what it lets in."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(strict=True, ge=0, le=65535)] = 8000
    api_key_file: str | None = None
    max_body_bytes: Count = 4 * 1024 * 1024
    max_queue: Annotated[int, Field(strict=True, ge=0)] = 256
    max_choices: Count = 16  # of one request: n times its prompts
    drain_seconds: Seconds = 30.0


class Deployment(Section):
    """Everything ``genarm serve`` needs to know.

    ``presets`` are named weights, offered as model ids ``<model>:<preset>``.
    """

    model: ModelId
    description: str = ""
    base: BaseSettings
    rewards: tuple[RewardSettings, ...] = ()
    policies: tuple[PolicySettings, ...] = ()
    scorers: tuple[ScorerSettings, ...] = ()
    conditioned: ConditionedSettings | None = None
    presets: Mapping[Name, Mapping[str, Weight]] = Field(default_factory=dict)
    threads: Count | None = None  # CPU threads of one forward; None leaves it to torch
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
        return self

    @property
    def reward_names(self) -> tuple[str, ...]:
        """The rewards in the order they are declared."""
        return tuple(reward.name for reward in self.rewards)

    def with_rewards(self, rewards: Iterable[RewardSettings]) -> Self:
        """The same deployment with these rewards in place of its own, checked as a whole.

        Raises:
            ValidationError: they do not go with the rest of it.
        """
        return type(self).model_validate({**dict(self), "rewards": tuple(rewards)})

    def whole(self, weights: Mapping[str, float]) -> dict[str, float]:
        """``weights`` with every other reward at 0, in the order of declaration."""
        return {name: float(weights.get(name, 0.0)) for name in self.reward_names}


def _check_names(deployment: Deployment) -> None:
    """Every model of a deployment has a name of its own, also those that are called after another."""
    taken = {"base": "the base model", "base.negative": "the base's negative prompt"}
    sections: dict[str, tuple[NamedSettings, ...]] = {
        "rewards": deployment.rewards,
        "policies": deployment.policies,
        "scorers": deployment.scorers,
        "conditioned": () if deployment.conditioned is None else (deployment.conditioned,),
    }
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


def read_deployment(declared: Mapping[str, Any], source: str) -> Deployment:
    """Checks what was declared.

    Raises:
        UserError: one line that begins with ``source`` and names the key at fault.
    """
    try:
        return Deployment.model_validate(declared)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise UserError(f"{source}: {_complaint(first['loc'], first['type'], first['msg'])}") from None


def read_config_file(path: Path) -> dict[str, Any]:
    """The YAML mapping in ``path``; model and file names relative to the file's folder are resolved.

    Raises:
        UserError: the file is missing, unreadable, not YAML or no mapping.
    """
    try:
        declared = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
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


def read_api_keys(path: str | None) -> frozenset[str]:
    """The keys in a file, one per line; empty lines and lines that begin with # do not count. No file: no
    keys.

    Raises:
        UserError: the file cannot be read or holds no key.
    """
    if path is None:
        return frozenset()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"api_key_file {path}: cannot be read: {reason}") from None
    keys = frozenset(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not keys:
        raise UserError(f"api_key_file {path}: holds no key (one per line)")
    return keys


class _UniqueKeys(yaml.SafeLoader):
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


def _complaint(loc: Iterable[int | str], kind: str, message: str) -> str:
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{part}"
    if kind == "extra_forbidden":
        return f"{path}: unknown key"
    if kind == "missing":
        return f"{path}: is missing"
    text = message.removeprefix("Value error, ")
    return f"{path}: {text}" if path else text
