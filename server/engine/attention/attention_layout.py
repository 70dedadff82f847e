"""What a forward asks of the packed tokens' layout, however keys and values lie."""

from typing import Protocol

import torch


class AttentionLayout(Protocol):
    """What the packed tokens of one forward are; the last ``padding`` of its ``tokens`` belong to no context."""

    @property
    def tokens(self) -> int:
        """Packed tokens."""

    @property
    def padding(self) -> int:
        """Those of them that fill up."""

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store ``key`` and ``value`` [tokens, kv_heads, head_dim] of one layer."""

    def attend(self, layer: int, query: torch.Tensor, scale: float) -> torch.Tensor:
        """``query`` [tokens, heads, head_dim] → the same shape and dtype; 0 for padding."""
