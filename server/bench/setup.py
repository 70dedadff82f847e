"""What every scenario gets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from arm_models.loading import ModelSource, load_family
from server.bench.workload import Workload
from server.engine import ATTENTION, Engine, EngineConfig, build_members, register_attention


@dataclass(frozen=True, slots=True)
class Setup:
    """Models (base first), requests, how many runs of each side count, and what to call after each of them."""

    sources: Sequence[ModelSource]
    workload: Workload
    runs: int
    tick: Callable[[], object]

    @property
    def rewards(self) -> list[str]:
        """Names of the rewards."""
        return [source.name for source in self.sources[1:]]

    @property
    def threads(self) -> int:
        """Torch threads of both sides."""
        return torch.get_num_threads()

    def engine(self, *, guided: bool = True, prefix_share: float = 0.0) -> Engine:
        """An engine on freshly loaded models with room for all requests; without the rewards unless ``guided``.

        Unless told so it keeps no prompts: every run is to read them all.
        """
        register_attention()
        sources = self.sources if guided else self.sources[:1]
        family = load_family(sources[0], sources[1:], attention=ATTENTION)
        most = self.workload.requests
        config = EngineConfig(max_sequences=most, max_step_tokens=max(512, most), prefix_share=prefix_share)
        return Engine(build_members(family, config), config)
