"""What every scenario gets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from arm_models.loading import Family, ModelSource, load_family
from server.bench.shapes import Models
from server.bench.workload import Workload
from server.engine import ATTENTION, Engine, EngineConfig, build_members, register_attention
from server.engine.config import Speculate

GPU_SHARE = 0.3
"""Of a GPU's free memory, what the caches of one engine take: often two engines, or an engine and the peer's models, share it."""


@dataclass(frozen=True)
class Limits:
    """What the person who measures allows and asks for.

    Attributes:
        peer_requests: of the requests, those that a slow peer writes in one run.
        cache_bytes: memory that the caches of one engine on a CPU may take.
        quick: few sizes, for a check that all runs.
        rates: arrivals per second in a serving run; none: shares of the capacity that is measured first.
        ttft, itl: seconds to the first token, and between tokens on average, within which a request counts as well served.
    """

    peer_requests: int = 8
    cache_bytes: int = 2 << 30
    quick: bool = False
    rates: tuple[float, ...] = ()
    ttft: float = 2.0
    itl: float = 0.25


@dataclass(frozen=True)
class Setup:
    """Models, how many rewards are in the mix, requests, how many runs of each side count, and what to call after each of
    them."""

    models: Models
    reward_count: int
    workload: Workload
    runs: int
    tick: Callable[[], object]
    limits: Limits = field(default_factory=Limits)

    @cached_property
    def sources(self) -> Sequence[ModelSource]:
        """Base first, then the rewards in the mix."""
        return self.models.sources(self.reward_count)

    @property
    def rewards(self) -> list[str]:
        """Names of the rewards."""
        return [source.name for source in self.sources[1:]]

    @property
    def threads(self) -> int:
        """Torch threads of both sides."""
        return torch.get_num_threads()

    @property
    def is_demo(self) -> bool:
        """Whether the models are the shipped ones."""
        return self.models.name == "demo"

    def engine(
        self,
        *,
        guided: bool = True,
        prefix_share: float = 0.0,
        sources: Sequence[ModelSource] | None = None,
        max_sequences: int | None = None,
        kv_tokens: int | None = None,
        speculation: Speculate = "off",
        overlap: bool | None = None,
    ) -> Engine:
        """An engine on freshly loaded models with room for all requests; without the rewards unless ``guided``.

        Unless told so it keeps no prompts: every run is to read them all. ``sources``, ``max_sequences`` and ``kv_tokens``
        stand in for the setup's own; the rest is as in the engine's config.
        """
        register_attention()
        chosen = self.sources if sources is None else sources
        family = load_family(chosen[0], chosen[1:] if guided else [], attention=ATTENTION)
        most = max_sequences or self.workload.requests
        config = EngineConfig(
            max_sequences=most,
            max_step_tokens=max(512, most),
            kv_tokens=kv_tokens,
            cpu_cache_bytes=self.limits.cache_bytes,
            gpu_memory_fraction=GPU_SHARE,
            prefix_share=prefix_share,
            speculation=speculation,
            overlap=overlap,
        )
        return Engine(build_members(family, config), config)

    def stock_family(self, sources: Sequence[ModelSource] | None = None) -> Family:
        """The models as transformers has them, with its own attention."""
        chosen = self.sources if sources is None else sources
        return load_family(chosen[0], chosen[1:], attention="sdpa")
