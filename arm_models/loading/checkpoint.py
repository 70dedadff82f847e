"""A checkpoint's folder: on disk or fetched from the hub, its files checked before a model is built."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from arm_models.errors import CheckpointError
from arm_models.loading.source import DTYPES

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
FETCHED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
NOT_FETCHED = ("original/*", "onnx/*", "*.bin", "*.pth", "*.gguf")
#: For a look at headers: torch's way of opening a file asks for as much memory as it has bytes.
HEADERS = "numpy"
SAMPLED_BLOCKS = 64
BLOCK = 4096


@dataclass(frozen=True)
class Checkpoint:
    """A folder that holds a full model or a LoRA adapter; its JSON parses and its tensors are all there.

    name: the member it is for (errors begin with it). config: config.json of a full model,
    adapter_config.json of an adapter. weights: the safetensors files in a fixed order.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    is_adapter: bool
    weights: tuple[Path, ...]

    def error(self, reason: str) -> CheckpointError:
        """``reason`` as one line that says which member and folder it is about."""
        return CheckpointError(f"{self.name}: {self.folder}: {one_line(reason)}")

    def read_json(self, file_name: str) -> dict[str, Any] | None:
        """The JSON object in a file of the folder, None if there is no such file."""
        path = self.folder / file_name
        return read_json(self.name, path) if path.is_file() else None

    @property
    def stored_dtype(self) -> torch.dtype:
        """What its weights are stored in; raises CheckpointError unless that is float32, bfloat16 or float16."""
        name = self.config.get("dtype") or self.config.get("torch_dtype") or _first_dtype(self.weights[0])
        if name not in DTYPES:
            raise self.error(f"its weights are {name}; read are {', '.join(DTYPES)}")
        return DTYPES[name]

    @property
    def digest(self) -> str:
        """A hash that changes with the model: small files whole, 64 blocks of every weight file, no paths."""
        digest = hashlib.sha256()
        small = [*self.folder.glob("*.json"), *self.folder.glob("*.jinja")]
        for path in sorted(small):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
        for path in self.weights:
            digest.update(path.name.encode() + b"\0" + _sampled_bytes(path))
        return digest.hexdigest()


def open_checkpoint(name: str, path: str, relative_to: Path | None = None) -> Checkpoint:
    """The checkpoint at a local folder or of a hub id, its files checked.

    relative_to: a folder that a relative ``path`` may also start from (an adapter's, for its backbone).
    Raises CheckpointError naming what is missing, torn, pickled or not JSON.
    """
    folder = _locate(name, path, relative_to)
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    config_file = folder / (ADAPTER_CONFIG if is_adapter else "config.json")
    if not config_file.is_file():
        raise CheckpointError(f"{name}: {folder} has neither config.json nor {ADAPTER_CONFIG}")
    config = read_json(name, config_file)
    for other in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (folder / other).is_file():
            read_json(name, folder / other)
    weights = (_adapter_weights if is_adapter else _model_weights)(name, folder)
    return Checkpoint(name, folder, config, is_adapter, weights)


def read_json(name: str, path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; raises CheckpointError saying where it stops being one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{name}: {path} is not readable JSON: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{name}: {path} is not a JSON object")
    return content


def one_line(error: object) -> str:
    """The first line of a message that has text, cut to 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def local_folder(name: str, path: str, relative_to: Path | None = None) -> Path | None:
    """The folder that ``path`` means, as ``open_checkpoint`` takes it; None where it is a hub id.

    Raises CheckpointError where it is neither.
    """
    candidates = [Path(path).expanduser()]
    if relative_to is not None:
        candidates.append(relative_to / path)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate.resolve()
        if candidate.is_file():
            raise CheckpointError(f"{name}: {candidate} is a file; a model is a folder or a hub id")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path, re.ASCII):
        raise CheckpointError(f"{name}: no folder {path!r} (and it is no hub id, which reads owner/model)")
    return None


def _locate(name: str, path: str, relative_to: Path | None) -> Path:
    return local_folder(name, path, relative_to) or _fetch(name, path)


def _fetch(name: str, hub_id: str) -> Path:
    """The hub's files of ``hub_id``, from the local cache where there is no network."""
    try:
        folder = snapshot_download(
            hub_id, allow_patterns=list(FETCHED), ignore_patterns=list(NOT_FETCHED), tqdm_class=None
        )
    except HfHubHTTPError as error:
        raise CheckpointError(f"{name}: the hub has no {hub_id} for us: {one_line(error)}") from error
    except (LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{name}: no folder {hub_id!r}, and no hub model of that id is in the cache or can be fetched now"
        ) from error
    return Path(folder).resolve()


def _adapter_weights(name: str, folder: Path) -> tuple[Path, ...]:
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{name}: {_no_weights(folder, ADAPTER_WEIGHTS)}")
    _tensor_names(name, path)
    return (path,)


def _model_weights(name: str, folder: Path) -> tuple[Path, ...]:
    if (folder / WEIGHTS_INDEX).is_file():
        return _shards(name, folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{name}: {_no_weights(folder, WEIGHTS)}")
    _tensor_names(name, path)
    return (path,)


def _shards(name: str, folder: Path) -> tuple[Path, ...]:
    index = read_json(name, folder / WEIGHTS_INDEX).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(shard, str) for shard in index.values()):
        raise CheckpointError(f"{name}: {folder / WEIGHTS_INDEX} has no weight_map of tensor to file")
    shards = tuple(sorted(set(index.values())))
    present: dict[str, set[str]] = {}
    for shard in shards:
        if Path(shard).name != shard or not (folder / shard).is_file():
            raise CheckpointError(f"{name}: {folder} lacks the file {shard!r} that {WEIGHTS_INDEX} names")
        present[shard] = _tensor_names(name, folder / shard)
    for tensor, shard in index.items():
        if tensor not in present[shard]:
            raise CheckpointError(f"{name}: {folder / shard} lacks the tensor {tensor} that the index names")
    return tuple(folder / shard for shard in shards)


def _tensor_names(name: str, path: Path) -> set[str]:
    """Names of the tensors in a safetensors file, whose header has to fit the file's length."""
    try:
        with safe_open(path, framework=HEADERS) as tensors:
            return set(tensors.keys())
    except (SafetensorError, OSError) as error:
        with path.open("rb") as file:
            pointer = file.read(30).startswith(b"version https://git-lfs")
        reason = "is a Git LFS pointer: run `git lfs pull`" if pointer else f"is torn: {one_line(error)}"
        raise CheckpointError(f"{name}: {path} {reason}") from error


def _first_dtype(path: Path) -> str:
    with safe_open(path, framework=HEADERS) as tensors:
        dtypes = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118  not a dict
    stored = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    return next((stored.get(dtype, dtype) for dtype in sorted(dtypes)), "none")


def _no_weights(folder: Path, expected: str) -> str:
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        return f"{folder} has only pickled weights ({pickled[0]}); pickles are never read, only safetensors"
    return f"{folder} has no {expected}"


def _sampled_bytes(path: Path) -> bytes:
    size = path.stat().st_size
    step = max(BLOCK, size // SAMPLED_BLOCKS)
    parts = [str(size).encode()]
    with path.open("rb") as file:
        for start in range(0, size, step):
            file.seek(start)
            parts.append(file.read(BLOCK))
    return b"\0".join(parts)
