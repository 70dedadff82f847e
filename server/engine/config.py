"""The limits an engine works within."""

from dataclasses import dataclass
from typing import Literal, get_args

Speculate = Literal["off", "rewards", "prompt", "auto"]
"""Who guesses tokens ahead of the base."""

MAX_DRAFT = 16
"""More tokens are never guessed ahead in one step."""


@dataclass(frozen=True)
class EngineConfig:
    """Limits of one engine; validated when made.

    Attributes:
        max_sequences: responses decoded side by side; more wait.
        prefill_chunk: tokens of a prompt that a member reads in one step; the grid on which prompts are computed.
        max_step_tokens: tokens one member reads in one step over all sequences.
        kv_tokens: cache of each member in tokens; None derives it from memory.
        deterministic: give every row of a batch the same bits it has alone, where the device can (checked at start).
        cache: how keys and values lie: ``slabs`` of rows, ``pages``, or ``auto``, which is pages on a GPU and slabs elsewhere.
        cuda_graphs: record decode steps on a GPU and replay them.
        gpu_memory_fraction: share of the GPU memory free after loading that the caches may take.
        cpu_cache_bytes: memory the caches on the CPU may take together.
        prefix_share: of each cache, what prompts may take that are kept for later ones; requests have precedence.
        speculation: who guesses tokens ahead of the base: nobody ("off"), the weighted rewards ("rewards"), the text so far
            where it repeats itself ("prompt"), or whoever pays best ("auto"). No token changes.
        max_draft: tokens guessed ahead in one step at most; fewer, or none, where that is faster.
        overlap: begin a step before the tokens of the last one are known to Python, where nothing asks for them, so that a GPU
            does not wait for it; no token changes. None: where the base is on a GPU. Speculation asks for every token.

    Raises:
        ValueError: a limit is out of range, ``cache`` or ``speculation`` is none of its kinds, or a step could not hold a chunk
            or one token of every sequence.
    """

    max_sequences: int = 32
    prefill_chunk: int = 128
    max_step_tokens: int = 512
    kv_tokens: int | None = None
    deterministic: bool = False
    cache: str = "auto"
    cuda_graphs: bool = True
    gpu_memory_fraction: float = 0.8
    cpu_cache_bytes: int = 2 << 30
    prefix_share: float = 0.25
    speculation: Speculate = "off"
    max_draft: int = 4
    overlap: bool | None = None

    def __post_init__(self) -> None:
        for name in ("max_sequences", "prefill_chunk", "max_step_tokens", "cpu_cache_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.cache not in ("auto", "slabs", "pages"):
            raise ValueError(f"cache must be auto, slabs or pages, not {self.cache!r}")
        if self.kv_tokens is not None and self.kv_tokens < 64:
            raise ValueError(f"kv_tokens must be at least 64, not {self.kv_tokens}")
        if not 0 < self.gpu_memory_fraction <= 1:
            raise ValueError(f"gpu_memory_fraction must be in (0, 1], not {self.gpu_memory_fraction}")
        if not 0 <= self.prefix_share <= 1:
            raise ValueError(f"prefix_share must be in [0, 1], not {self.prefix_share}")
        if self.speculation not in get_args(Speculate):
            raise ValueError(
                f"speculation must be one of {', '.join(get_args(Speculate))}, not {self.speculation!r}"
            )
        if not 1 <= self.max_draft <= MAX_DRAFT:
            raise ValueError(f"max_draft must be in 1 to {MAX_DRAFT}, not {self.max_draft}")
        needed = max(self.max_sequences, self.prefill_chunk)
        if self.max_step_tokens < needed:
            raise ValueError(
                f"max_step_tokens must be at least {needed} (max_sequences and prefill_chunk), "
                f"not {self.max_step_tokens}"
            )
