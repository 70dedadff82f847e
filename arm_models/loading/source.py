"""What a deployment names as a model, before anything is read from disk."""

import re
from dataclasses import dataclass
from typing import Literal

import torch

from arm_models.errors import CheckpointError

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.float32,  # rounded later, by who runs the model
}


Kind = Literal["causal", "scalar", "conditioned"]


@dataclass(frozen=True)
class ModelSource:
    """A model as a deployment names it.

    name: "base" or the reward's name. path: a local folder or a hub id; a full causal LM or a PEFT LoRA
    adapter. device: cpu | cuda:N. dtype: auto | float32 | bfloat16 | float16 | int8 (auto: float32 on
    a CPU, the checkpoint's own on a GPU; int8: loaded in float32, for a runner that quantizes its linear
    layers, on a CPU only). chat_template: path of a Jinja file that replaces the model's own template.
    kind: causal, a language model; scalar, a reward model with a scalar head (a sequence classifier of
    transformers with one label, no adapter); conditioned, an adapter that makes a language model of its
    backbone for every preference vector (:mod:`arm_models.conditioned`).
    ranks: processes that its weights are split over; all of them load it at the same time, each its own part
    (torch.distributed has begun by then). here: whether this process is to hold it; of one that another
    process holds only what it is like is loaded, on the device "meta".
    """

    name: str
    path: str
    device: str = "cpu"
    dtype: str = "auto"
    chat_template: str | None = None
    kind: Kind = "causal"
    ranks: int = 1
    here: bool = True

    @property
    def quantize(self) -> bool:
        """Whether linear layers are to be held in 8 bits."""
        return self.dtype == "int8"


def available_devices() -> list[str]:
    """``cpu`` and every GPU torch can use here, as they are named in a source."""
    return ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]


def resolve_device(source: ModelSource) -> torch.device:
    """The device of ``source`` (``cuda``: the first GPU), of one that another process holds "meta".

    Raises CheckpointError if it is not there.
    """
    if not source.here:
        return torch.device("meta")
    if source.device != "cpu" and not re.fullmatch(r"cuda(:\d+)?", source.device):
        raise CheckpointError(f"{source.name}: device {source.device!r} is not known; use cpu or cuda:N")
    device = "cuda:0" if source.device == "cuda" else source.device
    present = available_devices()
    if device not in present:
        raise CheckpointError(
            f"{source.name}: device {source.device!r} is not there; this machine has {', '.join(present)}"
        )
    return torch.device(device)


def resolve_dtype(source: ModelSource, device: torch.device) -> torch.dtype | None:
    """The dtype to load in; None is the checkpoint's own. Raises CheckpointError on an unknown name,
    and where int8 is not to be had.
    """
    if source.dtype == "auto":
        on_cpu = device.type == "cpu" or (not source.here and source.device == "cpu")
        return torch.float32 if on_cpu else None
    if source.dtype not in DTYPES:
        raise CheckpointError(
            f"{source.name}: dtype {source.dtype!r} is not known; use auto, {', '.join(DTYPES)}"
        )
    if source.quantize and source.here and not multiplies_int8(device):
        raise CheckpointError(
            f"{source.name}: dtype int8 needs a CPU with AVX-512 VNNI, and device cpu; use float32 or bfloat16"
        )
    return DTYPES[source.dtype]


def multiplies_int8(device: torch.device) -> bool:
    """Whether a model on ``device`` can be held in int8."""
    # Without these instructions products of bytes are added up in 16 bits and overflow.
    return device.type == "cpu" and torch.cpu._is_vnni_supported()
