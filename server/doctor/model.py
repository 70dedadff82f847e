"""A checkpoint as its config and the headers of its weights describe it; nothing of the weights themselves is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arm_models.loading import ModelSource
    from arm_models.loading.checkpoint import Checkpoint

DTYPES = ("float32", "bfloat16", "float16", "int8")
"""As what weights can be held."""

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "wpe.weight")
"""How transformers calls the matrices that are no linear layers."""


class NotHere(Exception):
    """A hub id whose files are not on this machine; the message says so."""


@dataclass(frozen=True)
class Values:
    """Numbers in the tensors of a model: ``all``; and as int8 holds them, ``in_matrices`` in 8 bits, which have ``rows`` rows,
    and the ``rest`` in float32.
    """

    all: int
    in_matrices: int = 0
    rows: int = 0
    rest: int = 0

    def held_as(self, dtype: str) -> int:
        """Bytes that they take; with int8 a float32 scale for every row besides."""
        if dtype == "int8":
            return self.in_matrices + 4 * self.rows + 4 * self.rest
        return self.all * BYTES[dtype]


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model without its weights.

    ``folder`` is where it lies, ``stored`` what its weights are stored in, ``kv_values`` the numbers that its cache keeps of a
    token, ``max_length`` the tokens of its longest context. An adapter has a ``backbone``; the last two are that one's.
    """

    folder: Path
    architecture: str
    values: Values
    stored: str
    kv_values: int
    max_length: int
    backbone: ModelFacts | None = None


def read_model(source: ModelSource) -> ModelFacts:
    """The model that ``source`` names.

    Raises:
        CheckpointError: it is missing, torn or of a kind that cannot be served; as when it is loaded.
        NotHere: it would have to be fetched first.
    """
    from arm_models.loading.checkpoint import open_checkpoint
    from arm_models.loading.split import check_whole

    checkpoint = open_checkpoint(source.name, str(_folder(source.name, source.path)))
    if source.ranks > 1:
        check_whole(checkpoint)
    if not checkpoint.is_adapter:
        return _full(checkpoint, scalar=source.kind == "scalar", ranks=source.ranks)
    if source.kind == "scalar":
        raise checkpoint.error("it is an adapter; a scorer is a whole model, so merge it into its backbone")
    named = checkpoint.config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise checkpoint.error("adapter_config.json names no base_model_name_or_path")
    below = open_checkpoint(source.name, str(_folder(source.name, named, beside=checkpoint.folder)))
    if below.is_adapter:
        raise checkpoint.error(f"its backbone {below.folder} is an adapter itself")
    backbone = _full(below, scalar=False)
    return ModelFacts(
        folder=checkpoint.folder,
        architecture=f"adapter on {backbone.architecture}",
        values=_values(checkpoint),
        stored=_stored(checkpoint),
        kv_values=backbone.kv_values,
        max_length=backbone.max_length,
        backbone=backbone,
    )


def _full(checkpoint: Checkpoint, *, scalar: bool, ranks: int = 1) -> ModelFacts:
    from arm_models.loading.architecture import Unsupported, check_config
    from arm_models.loading.family import read_config
    from arm_models.loading.scalar import complaint
    from arm_models.loading.split import check_split

    config: Any = read_config(checkpoint)
    reason = complaint(config) if scalar else None
    if reason is not None:
        raise checkpoint.error(reason)
    try:
        check_config(config)
    except Unsupported as error:
        raise checkpoint.error(str(error)) from error
    if ranks > 1:
        check_split(ranks, config, checkpoint)
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    tied = config.vocab_size if getattr(config, "tie_word_embeddings", False) and not scalar else 0
    return ModelFacts(
        folder=checkpoint.folder,
        architecture=config.model_type,
        values=_values(checkpoint, head=(tied, config.hidden_size)),
        stored=_stored(checkpoint),
        kv_values=config.num_hidden_layers * 2 * kv_heads * head_dim,
        max_length=config.max_position_embeddings,
    )


def _values(checkpoint: Checkpoint, head: tuple[int, int] = (0, 0)) -> Values:
    """``head``: rows and columns of one that is the embedding too, and that int8 holds a second time. What is in an adapter is
    never held in 8 bits.
    """
    from safetensors import safe_open

    from arm_models.loading.checkpoint import HEADERS

    whole, rest, rows, in_matrices = 0, 0, head[0], math.prod(head)
    for file in checkpoint.weights:
        with safe_open(file, framework=HEADERS) as tensors:
            for name in tensors.keys():  # noqa: SIM118  (not a dict)
                shape = tensors.get_slice(name).get_shape()
                size = math.prod(shape)
                whole += size
                if checkpoint.is_adapter or len(shape) != 2 or name.endswith(EMBEDDINGS):
                    rest += size
                else:
                    in_matrices, rows = in_matrices + size, rows + shape[0]
    return Values(whole, in_matrices, rows, rest)


def _stored(checkpoint: Checkpoint) -> str:
    return str(checkpoint.stored_dtype).removeprefix("torch.")


def _folder(name: str, path: str, beside: Path | None = None) -> Path:
    """Where a model lies: a folder, or what is here of a hub id. Nothing is fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    from arm_models.loading.checkpoint import local_folder

    folder = local_folder(name, path, beside)
    if folder is not None:
        return folder
    try:
        return Path(snapshot_download(path, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        raise NotHere(f"{path} is not on this machine; it would be fetched from the hub at start") from None
