"""The base and its rewards: on their devices, switched to the engine's attention, fitting together."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as transformers_logging

from arm_models.errors import CheckpointError
from arm_models.loading.architecture import (
    AttentionShape,
    Unsupported,
    declared_shape,
    inspect_config,
    inspect_model,
)
from arm_models.loading.checkpoint import Checkpoint, one_line, open_checkpoint
from arm_models.loading.scalar import ScalarModel, complaint, scalar_from_config
from arm_models.loading.source import ModelSource, resolve_device, resolve_dtype
from arm_models.loading.split import check_whole, on_a_split, split_over
from arm_models.loading.vocabulary import check_vocabulary, load_tokenizer, shared_vocabulary

if TYPE_CHECKING:
    from arm_models.conditioned import ConditionedLinear
    from arm_models.loading.adapter import AdapterSwitch

CONDITIONED = "conditioned"
"""What a conditioned adapter is called on its backbone, which has at most one."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class LoadedModel:
    """A member in memory, ready for forwards.

    model: a transformers causal LM (or a ``ScalarModel``) in eval mode without gradients, its attention
    switched; shared between the members of one backbone, with their LoRA layers in it. Its logits have exactly
    ``vocab_size`` columns. adapter: what ``activate`` switches on; None = a full model, or the shared backbone
    without adapters. tokenizer: the member's own, with its own chat template (None where it has none).
    vocab_size: ids that can be drawn, the same in the whole family; 1 where scalar: its one logit is the value
    of a text. input_size: rows of its embedding; a prompt with an id from here on cannot be read. max_length:
    tokens a context may have. digest: changes with the files it was loaded from. quantize: its linear layers
    are to be run in 8 bits (``model`` is float32 itself).
    ranks: processes that ``model`` is split over; its heads are those of this process, and all of them have to
    run every forward together. On the device "meta" there is no model: another process holds it.
    objectives: what the entries of the preference vector mean that the member is conditioned on; none where it
    is not. conditioned_layers: those of ``model`` that such a member is in, whichever member this one is.
    """

    name: str
    model: torch.nn.Module
    adapter: str | None
    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    input_size: int
    max_length: int
    num_layers: int
    num_kv_heads: int
    num_heads: int
    head_dim: int
    device: torch.device
    dtype: torch.dtype
    digest: str
    quantize: bool = False
    scalar: bool = False
    ranks: int = 1
    switch: "AdapterSwitch | None" = field(default=None, repr=False)
    objectives: tuple[str, ...] = ()
    conditioned_layers: "tuple[ConditionedLinear, ...]" = field(default=(), repr=False)

    def activate(self, condition: torch.Tensor | None = None) -> None:
        """Make ``model`` compute as this member; call it before every forward. Free where nothing changes.

        condition: of a member with objectives, as :func:`arm_models.conditioned.set_condition` takes it.
        """
        if self.switch is not None:
            self.switch.activate(None if self.objectives else self.adapter)
        for layer in self.conditioned_layers:
            layer.condition = condition if self.objectives else None


@dataclass(frozen=True)
class Family:
    """A base and all other members that may be mixed with it or score what it says. eos_ids: tokens that end the base's turn."""

    base: LoadedModel
    rewards: tuple[LoadedModel, ...]
    eos_ids: frozenset[int]


@dataclass
class _Backbone:
    """One copy of a full model in memory and the adapters on it; rows are counted before adapters wrap them."""

    checkpoint: Checkpoint
    model: Any
    device: torch.device
    dtype: torch.dtype
    quantize: bool
    input_rows: int
    head_rows: int
    scalar: bool = False
    ranks: int = 1
    switch: "AdapterSwitch | None" = None
    conditioned_layers: "tuple[ConditionedLinear, ...]" = ()
    serves_full_member: bool = False


@dataclass(frozen=True)
class _Member:
    """A source with what was made of it, before the family's vocabulary is known."""

    source: ModelSource
    checkpoint: Checkpoint
    backbone: _Backbone
    adapter: str | None
    tokenizer: PreTrainedTokenizerBase
    shape: AttentionShape
    objectives: tuple[str, ...] = ()


def load_family(
    base: ModelSource,
    rewards: Sequence[ModelSource],
    *,
    attention: str = "sdpa",
    progress: Progress | None = None,
) -> Family:
    """Load a base and its rewards and check that they can be mixed.

    attention: the registered attention function every model is switched to. progress: is told, in one line
    each, what is being loaded. Adapters of one backbone share one copy of it, with the base too if it is
    their backbone on the same device in the same dtype. Raises CheckpointError, one line that names the
    member, for whatever is missing, torn, unsupported or does not fit; ValueError for an attention that is
    not registered.
    """
    members = _load([base, *rewards], attention, progress)
    vocab_size = shared_vocabulary(
        members[0].tokenizer,
        members[0].backbone.head_rows,
        [(member.source.name, member.tokenizer, member.backbone.head_rows) for member in members[1:]],
    )
    loaded = _all_finished(members, vocab_size)
    return Family(loaded[0], loaded[1:], _eos_ids(members[0], vocab_size))


def load_more(
    base: LoadedModel,
    sources: Sequence[ModelSource],
    *,
    attention: str = "sdpa",
    progress: Progress | None = None,
) -> tuple[LoadedModel, ...]:
    """Load members that are to join the family of ``base``, whose vocabulary stays as it is.

    They share backbones with each other and with nobody who is there already: adapters get a copy of their own. Arguments and
    errors as of :func:`load_family`.
    """
    members = _load(sources, attention, progress)
    heads = [(member.source.name, member.tokenizer, member.backbone.head_rows) for member in members]
    check_vocabulary(base.tokenizer, base.vocab_size, heads)
    return _all_finished(members, base.vocab_size)


def fingerprint(family: Family) -> str:
    """``fp_`` and 12 hex digits that change with the models' files, dtypes, devices and the versions."""
    return common_fingerprint({one.name: imprint(one) for one in (family.base, *family.rewards)})


def imprint(member: LoadedModel) -> str:
    """What of a member a fingerprint depends on, besides its name: its files, how and where it is held."""
    held = "int8" if member.quantize else member.dtype
    return f"{member.digest}\0{held}\0{member.device.type}"


def common_fingerprint(imprints: Mapping[str, str]) -> str:
    """The :func:`fingerprint` of members of which only names and imprints are known."""
    digest = hashlib.sha256()
    versions = [torch.__version__, transformers.__version__, metadata.version("genarm")]
    digest.update("\0".join(versions).encode())
    for name in sorted(imprints):
        digest.update(f"\0{name}\0{imprints[name]}".encode())
    return f"fp_{digest.hexdigest()[:12]}"


def _load(sources: Sequence[ModelSource], attention: str, progress: Progress | None) -> "list[_Member]":
    if attention not in ("eager", *AttentionInterface().valid_keys()):
        raise ValueError(f"attention {attention!r} is not registered with transformers")
    _check_names(sources)
    for source in sources:  # before anything is fetched or read
        resolve_dtype(source, resolve_device(source))
    with _quiet_transformers():
        return _Loader(attention, progress or _say_nothing).load(sources)


class _Loader:
    """Loads sources one after the other and keeps the backbones that later ones may share."""

    def __init__(self, attention: str, progress: Progress) -> None:
        self.attention = attention
        self.progress = progress
        self.backbones: list[_Backbone] = []

    def load(self, sources: Sequence[ModelSource]) -> list[_Member]:
        # peft does not look for layers to adapt inside those that a conditioned adapter has wrapped.
        order = sorted(sources, key=lambda source: source.kind == "conditioned")
        members = {source.name: self._load(source) for source in order}
        return [members[source.name] for source in sources]

    def _load(self, source: ModelSource) -> _Member:
        checkpoint = open_checkpoint(source.name, source.path)
        if source.kind == "scalar" and checkpoint.is_adapter:
            raise checkpoint.error(
                "it is an adapter; a scorer is a whole model, so merge it into its backbone"
            )
        if source.ranks > 1:
            check_whole(checkpoint)
        full = self._backbone_of(checkpoint) if checkpoint.is_adapter else checkpoint
        tokenizer = load_tokenizer(checkpoint, full, source.chat_template)
        if checkpoint.is_adapter:
            self._check_whole(checkpoint, full)
        if not source.here:
            return self._described(source, checkpoint, full, tokenizer)
        backbone = self._backbone(source, full, shared=checkpoint.is_adapter)
        adapter: str | None = None
        objectives: tuple[str, ...] = ()
        if source.kind == "conditioned":
            adapter, objectives = self._add_conditioned(checkpoint, backbone)
        elif checkpoint.is_adapter:
            adapter = self._add_adapter(checkpoint, backbone)
        else:
            backbone.serves_full_member = True
        shape = self._inspect(checkpoint, backbone, None if objectives else adapter)
        return _Member(source, checkpoint, backbone, adapter, tokenizer, shape, objectives)

    def _check_whole(self, checkpoint: Checkpoint, full: Checkpoint) -> None:
        """Raises CheckpointError for an adapter on a model that is split."""
        if any(one.ranks > 1 and one.checkpoint.folder == full.folder for one in self.backbones):
            raise on_a_split(checkpoint, full.folder)

    def _described(
        self,
        source: ModelSource,
        checkpoint: Checkpoint,
        full: Checkpoint,
        tokenizer: PreTrainedTokenizerBase,
    ) -> _Member:
        """A member that another process holds: all but its weights."""
        config, scalar = read_config(full), source.kind == "scalar"
        reason = complaint(config) if scalar else None
        if reason is not None:
            raise checkpoint.error(reason)
        try:
            # What cannot be seen without weights is seen by the process that holds them.
            shape = inspect_config(config, scalar=scalar) or declared_shape(config)
        except Unsupported as error:
            raise checkpoint.error(str(error)) from error
        objectives: tuple[str, ...] = ()
        if source.kind == "conditioned":
            from arm_models.conditioned import read_config as read_conditioned

            objectives = read_conditioned(checkpoint).objectives
        device = resolve_device(source)
        with device:
            model: Any = (
                scalar_from_config(config, self.attention)
                if scalar
                else AutoModelForCausalLM.from_config(
                    config, attn_implementation=self.attention, trust_remote_code=False
                )
            )
        input_rows = model.get_input_embeddings().weight.shape[0]
        head_rows = input_rows if scalar else model.get_output_embeddings().weight.shape[0]
        dtype = resolve_dtype(source, device) or full.stored_dtype
        backbone = _Backbone(
            full, model.eval(), device, dtype, source.quantize, input_rows, head_rows, scalar
        )
        return _Member(source, checkpoint, backbone, None, tokenizer, shape, objectives)

    def _backbone_of(self, checkpoint: Checkpoint) -> Checkpoint:
        # peft takes seconds to import, and a family without adapters does without it.
        from arm_models.loading.adapter import backbone_path

        full = open_checkpoint(checkpoint.name, backbone_path(checkpoint), relative_to=checkpoint.folder)
        if full.is_adapter:
            raise checkpoint.error(f"its backbone {full.folder} is an adapter itself")
        return full

    def _add_adapter(self, checkpoint: Checkpoint, backbone: _Backbone) -> str:
        """The name under which the adapter is now on its backbone."""
        from arm_models.loading.adapter import AdapterSwitch

        self.progress(f"loading {checkpoint.name}: adapter {checkpoint.folder}")
        if backbone.switch is None:
            backbone.switch = AdapterSwitch(backbone.model)
        # The name of a module of torch's, which may not hold the dots that a reward's own name may.
        adapter = f"reward_{len(backbone.switch.names)}"
        backbone.switch.add(adapter, checkpoint)
        return adapter

    def _add_conditioned(self, checkpoint: Checkpoint, backbone: _Backbone) -> tuple[str, tuple[str, ...]]:
        """The name of the conditioned adapter that is now on its backbone, and its objectives."""
        from arm_models.conditioned import PEFT_TYPE, conditioned_layers, load_conditioned, read_config

        if not checkpoint.is_adapter:
            raise checkpoint.error(f"a full model; a conditioned one is an adapter of type {PEFT_TYPE}")
        objectives = read_config(checkpoint).objectives
        self.progress(f"loading {checkpoint.name}: conditioned adapter {checkpoint.folder}")
        load_conditioned(backbone.model, checkpoint).requires_grad_(False)
        backbone.conditioned_layers = tuple(layer for _, layer in conditioned_layers(backbone.model))
        return CONDITIONED, objectives

    def _inspect(self, checkpoint: Checkpoint, backbone: _Backbone, adapter: str | None) -> AttentionShape:
        if backbone.switch is not None:
            backbone.switch.activate(adapter)
        try:
            shape = inspect_model(backbone.model, self.attention)
        except Unsupported as error:
            raise checkpoint.error(str(error)) from error
        self._check_attention(checkpoint, backbone.model)
        return shape

    def _backbone(self, source: ModelSource, checkpoint: Checkpoint, *, shared: bool) -> _Backbone:
        """A copy this member may use: an adapter any, a full model one that no other full model has."""
        device = resolve_device(source)
        dtype = resolve_dtype(source, device) or checkpoint.stored_dtype
        for backbone in self.backbones:
            scalar = source.kind == "scalar"
            kept = (
                backbone.checkpoint.folder,
                backbone.device,
                backbone.dtype,
                backbone.quantize,
                backbone.ranks,
            )
            wanted = (checkpoint.folder, device, dtype, source.quantize, source.ranks)
            if scalar == backbone.scalar and kept == wanted and (shared or not backbone.serves_full_member):
                return backbone
        backbone = self._read(checkpoint, device, dtype, source)
        self.backbones.append(backbone)
        return backbone

    def _read(
        self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, source: ModelSource
    ) -> _Backbone:
        config = read_config(checkpoint)
        quantize, scalar = source.quantize, source.kind == "scalar"
        reason = complaint(config) if scalar else None
        if reason is not None:
            raise checkpoint.error(reason)
        try:
            inspect_config(config, scalar=scalar)
        except Unsupported as error:
            raise checkpoint.error(str(error)) from error
        held = f"{dtype}, to be run in int8" if quantize else str(dtype)
        where = str(device) if source.ranks == 1 else f"{device}, split over {source.ranks} processes"
        self.progress(f"loading {checkpoint.name}: {checkpoint.folder} ({held}, {where})")
        options: dict[str, Any] = {}
        if source.ranks > 1:
            options["distributed_config"] = split_over(source.ranks, config, checkpoint)
        try:
            auto = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
            model, info = auto.from_pretrained(
                checkpoint.folder,
                config=config,
                dtype=dtype,
                attn_implementation=self.attention,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
        except (RuntimeError, ValueError, OSError, KeyError, TypeError) as error:
            raise checkpoint.error(f"cannot be loaded: {one_line(error)}") from error
        _check_complete(checkpoint, info)
        self._check_attention(checkpoint, model)
        try:
            # A part of a model is where it is to be already.
            (model if source.ranks > 1 else model.to(device)).eval().requires_grad_(False)
        except torch.OutOfMemoryError as error:
            raise checkpoint.error(f"does not fit into the memory of {device}") from error
        input_rows = model.get_input_embeddings().weight.shape[0]
        if scalar:
            # It has to read the family's tokens, not to say them.
            head_rows, model = input_rows, ScalarModel(model).eval()
        else:
            head_rows = model.get_output_embeddings().weight.shape[0]
        return _Backbone(
            checkpoint, model, device, dtype, quantize, input_rows, head_rows, scalar, source.ranks
        )

    def _check_attention(self, checkpoint: Checkpoint, model: Any) -> None:
        # A failed switch only warns and then runs without the engine's cache.
        if model.config._attn_implementation != self.attention:
            raise checkpoint.error(f"its attention cannot be switched to {self.attention}")


def read_config(checkpoint: Checkpoint) -> PretrainedConfig:
    """A config object of its own for every copy of a model. Raises CheckpointError where transformers has none for it."""
    kind = checkpoint.config.get("model_type")
    if kind not in CONFIG_MAPPING:
        code = " and its folder's own code (auto_map) is never run" if "auto_map" in checkpoint.config else ""
        raise checkpoint.error(
            f"transformers {transformers.__version__} does not know the model type {kind!r}{code}"
        )
    try:
        return AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a config's validation raises classes of its own, of several libraries
        raise checkpoint.error(f"config.json: {one_line(error)}") from error


def _check_complete(checkpoint: Checkpoint, info: dict[str, Any]) -> None:
    """Weights left random, or tensors without a place, are a torn or foreign checkpoint."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise checkpoint.error(f"{len(missing)} tensors are missing, the first {missing[0]}")
    unexpected = sorted(info["unexpected_keys"])
    if unexpected:
        raise checkpoint.error(f"{len(unexpected)} tensors have no place, the first {unexpected[0]}")
    if info["mismatched_keys"] or info["error_msgs"]:
        raise checkpoint.error(f"tensors do not fit: {[*info['mismatched_keys'], *info['error_msgs']][0]}")


def _all_finished(members: Sequence[_Member], vocab_size: int) -> tuple[LoadedModel, ...]:
    for backbone in {id(member.backbone): member.backbone for member in members}.values():
        _cut_head(backbone, vocab_size)
    return tuple(_finished(member, vocab_size) for member in members)


def _finished(member: _Member, vocab_size: int) -> LoadedModel:
    backbone, shape = member.backbone, member.shape
    digest = member.checkpoint.digest
    if member.adapter is not None:
        digest += backbone.checkpoint.digest
    template = str(member.tokenizer.chat_template)
    return LoadedModel(
        name=member.source.name,
        model=backbone.model,
        adapter=member.adapter,
        tokenizer=member.tokenizer,
        vocab_size=1 if backbone.scalar else vocab_size,
        input_size=backbone.input_rows,
        max_length=backbone.model.config.max_position_embeddings,
        num_layers=shape.num_layers,
        num_kv_heads=shape.num_kv_heads,
        num_heads=shape.num_heads,
        head_dim=shape.head_dim,
        device=backbone.device,
        dtype=backbone.dtype,
        digest=hashlib.sha256((digest + template).encode()).hexdigest(),
        quantize=backbone.quantize,
        scalar=backbone.scalar,
        ranks=backbone.ranks,
        switch=backbone.switch,
        objectives=member.objectives,
        conditioned_layers=backbone.conditioned_layers,
    )


def _cut_head(backbone: _Backbone, vocab_size: int) -> None:
    """Let the head answer with the family's vocabulary only; beyond is padding, or unknown to others."""
    if backbone.head_rows > vocab_size and not backbone.scalar:
        head = backbone.model.get_output_embeddings()
        head.register_forward_hook(lambda _module, _inputs, logits: logits[..., :vocab_size])


def _eos_ids(base: _Member, vocab_size: int) -> frozenset[int]:
    """What ends the base's turn: its generation config's ids (or its config's) and its tokenizer's eos."""
    config: GenerationConfig = base.backbone.model.generation_config
    named = config.eos_token_id
    ids = set(named) if isinstance(named, list) else {named}
    ids.add(base.tokenizer.eos_token_id)
    # An id outside the vocabulary (a config's untouched default) is never drawn and so ends nothing.
    return frozenset(index for index in ids if isinstance(index, int) and 0 <= index < vocab_size)


def _check_names(sources: Sequence[ModelSource]) -> None:
    names = [source.name for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CheckpointError(f"{twice[0]}: two models have this name")


def _say_nothing(_line: str) -> None:
    """The progress of a caller who does not want any."""


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No bars and warnings of transformers' own: what matters in them is an error here."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
