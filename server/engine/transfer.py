"""Between Python and the device, without either waiting for the other."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def upload(values: Sequence[Any], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """``values`` on ``device``. What a GPU copies from memory that is not pinned, Python waits for."""
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(device, non_blocking=True)


class Download:
    """Tensors of one device on their way to Python; the copies are queued behind whatever makes the tensors."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._arriving = {name: _on_host(tensor) for name, tensor in tensors.items()}
        self._arrived: Any = None  # a CUDA event
        device = next(iter(tensors.values())).device
        if device.type == "cuda":
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record(torch.cuda.current_stream(device))

    def wait(self) -> dict[str, list[Any]]:
        """By name, the tensors as lists of numbers, once they are here."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return {name: tensor.tolist() for name, tensor in self._arriving.items()}


def fill_in(tokens: torch.Tensor, drawn: torch.Tensor | None) -> torch.Tensor:
    """``tokens`` [n] of any integer type, with ``drawn[row]`` in place of every ``-1 - row`` (see
    :class:`~server.engine.chunk.Chunk`)."""
    if drawn is None:
        return tokens
    known = drawn.to(tokens.device, tokens.dtype)
    rows = (-1 - tokens).clamp_min(0).long()
    return torch.where(tokens < 0, known.index_select(0, rows), tokens)


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.device.type != "cuda":
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
