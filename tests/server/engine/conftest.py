"""Engines on tiny checkpoints, and the plain transformers forwards they are compared with."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from arm_models.loading import Family, ModelSource, load_family
from server.engine import ATTENTION, Engine, EngineConfig, build_members, register_attention
from server.engine.speculation.pace import Pace

MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="session")
def family(make_checkpoint: Callable[..., Path]) -> Family:
    """A Llama base with a Qwen3 and a GPT-2 reward: three architectures in one mix."""
    register_attention()
    return load_family(
        ModelSource("base", str(make_checkpoint("llama", "engine-base", seed=1))),
        [
            ModelSource("helpful", str(make_checkpoint("qwen3", "engine-helpful", seed=2))),
            ModelSource("harmless", str(make_checkpoint("gpt2", "engine-harmless", seed=3))),
        ],
        attention=ATTENTION,
    )


@pytest.fixture
def cache() -> str:
    """How keys and values lie in the engines made here; a test of both ways is parametrised over it."""
    return "slabs"


@pytest.fixture
def make_engine(family: Family, cache: str) -> MakeEngine:
    """An engine on ``family``, or on another one, with the limits given."""

    def make(
        models: Family = family, pace: Pace | None = None, *, negative: bool = False, **limits: Any
    ) -> Engine:
        config = EngineConfig(**{"cache": cache, **limits})
        return Engine(build_members(models, config, negative=negative), config, pace=pace)

    return make


@torch.inference_mode()
def plain_mix(
    engine: Engine, prompts: Mapping[str, Sequence[int]], mix: Mapping[str, float], response: Sequence[int]
) -> torch.Tensor:
    """The definition: Σ w · log π of plain forwards, normalised; [len(response), vocab] log-probs."""
    total: torch.Tensor | float = 0.0
    for name, weight in mix.items():
        tokens = [*prompts[name], *response]
        rows = engine.members[name].plain_log_probs(tokens)
        total = total + weight * rows[len(prompts[name]) - 1 : len(tokens) - 1].double()
    assert isinstance(total, torch.Tensor)
    return total.log_softmax(-1)


@pytest.fixture
def reference() -> Callable[..., torch.Tensor]:
    """The plain recomputation of the mix."""
    return plain_mix
