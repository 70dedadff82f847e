"""What a replica may do side by side and keep: the fields of ``server.engine.EngineConfig`` that decide about steps."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

BLOCK = 64
"""Tokens per block of a cache, as in ``server/engine/cache``."""

Rounding = Literal["slabs", "pages"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one replica.

    Attributes:
        kv_tokens: cache of each member in tokens.
        max_sequences, prefill_chunk, max_step_tokens, prefix_share: as the engine's.
        max_queue: requests that wait beside those; more are refused.
        cache: how contexts are rounded up: ``slabs`` to rows of 64 x 1, 2, 3, 4, 6, 8, 12 … tokens, ``pages`` to blocks of 64.
            That contexts in pages share blocks is not modelled, so memory is fuller here than it would be there.

    Raises:
        ValueError: a limit is out of range, or a step could not hold a chunk or one token of every sequence.
    """

    kv_tokens: int
    max_sequences: int = 32
    prefill_chunk: int = 128
    max_step_tokens: int = 512
    prefix_share: float = 0.25
    max_queue: int = 256
    cache: Rounding = "slabs"

    def __post_init__(self) -> None:
        for name in ("max_sequences", "prefill_chunk", "max_step_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.kv_tokens < BLOCK:
            raise ValueError(f"kv_tokens must be at least {BLOCK}, not {self.kv_tokens}")
        if self.max_queue < 0:
            raise ValueError(f"max_queue must be at least 0, not {self.max_queue}")
        if not 0 <= self.prefix_share <= 1:
            raise ValueError(f"prefix_share must be in [0, 1], not {self.prefix_share}")
        if self.cache not in ("slabs", "pages"):
            raise ValueError(f"cache must be slabs or pages, not {self.cache!r}")
        needed = max(self.max_sequences, self.prefill_chunk)
        if self.max_step_tokens < needed:
            raise ValueError(
                f"max_step_tokens must be at least {needed} (max_sequences and prefill_chunk), "
                f"not {self.max_step_tokens}"
            )

    @property
    def blocks(self) -> int:
        """Blocks of each member's cache."""
        return self.kv_tokens // BLOCK

    @property
    def kept_blocks(self) -> int:
        """Of them, those that kept prompts may take."""
        return int(self.blocks * self.prefix_share)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that a context of so many tokens, at least one, takes."""
        blocks = -(-tokens // BLOCK)
        if self.cache == "pages":
            return blocks
        power = 1 << (blocks - 1).bit_length()
        three_quarters = power // 4 * 3
        return three_quarters if power >= 4 and blocks <= three_quarters else power

    @property
    def longest(self) -> int:
        """Tokens of the longest context for which there is room."""
        if self.cache == "pages":
            return self.blocks * BLOCK
        power = 1 << (self.blocks.bit_length() - 1)
        three_halves = power // 2 * 3
        return BLOCK * (three_halves if power > 1 and three_halves <= self.blocks else power)

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Limits":
        """From a file. Raises ``TypeError`` or ``ValueError`` where it is none."""
        return cls(**kept)
