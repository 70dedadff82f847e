"""How much memory a model will take, and how much there is: told from files' headers, before a tensor is read."""

import math
from pathlib import Path

import torch
from safetensors import safe_open

from arm_models.loading.checkpoint import Checkpoint, open_checkpoint
from arm_models.loading.source import ModelSource, resolve_device, resolve_dtype

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def weight_bytes(source: ModelSource) -> int:
    """Bytes of all weights of ``source`` as they will be held; those of its backbone too where it is an adapter.

    Raises CheckpointError as loading would.
    """
    checkpoint = open_checkpoint(source.name, source.path)
    full = checkpoint
    if checkpoint.is_adapter:
        # peft takes seconds to import.
        from arm_models.loading.adapter import backbone_path

        full = open_checkpoint(checkpoint.name, backbone_path(checkpoint), relative_to=checkpoint.folder)
    dtype = resolve_dtype(source, resolve_device(source)) or full.stored_dtype
    values = _values(full) + (_values(checkpoint) if checkpoint is not full else 0)
    return values * dtype.itemsize


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be taken on ``device``; None where the system does not tell.

    On a CPU the least of what the machine and its control group (a container's limit) have left.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    told = [left for left in (_machine_bytes(MEMINFO), _group_bytes(CGROUP)) if left is not None]
    return min(told, default=None)


def _values(checkpoint: Checkpoint) -> int:
    """Numbers in the tensors of a folder."""
    count = 0
    for path in checkpoint.weights:
        with safe_open(path, framework="pt") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118  not a dict
            count += sum(math.prod(shape) for shape in shapes)
    return count


def _machine_bytes(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if kilobytes is None else int(kilobytes) * 1024


def _group_bytes(group: Path) -> int | None:
    """What a control group (version 2) has left; files that are cached for it can be given up."""
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        held = (group / "memory.stat").read_text(encoding="ascii").split()
    except OSError:
        return None
    if limit == "max":
        return None
    figures = dict(zip(held[::2], held[1::2], strict=False))
    return int(limit) - used + int(figures.get("inactive_file", 0))
