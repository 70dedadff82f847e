"""A deployment becomes loaded models: each once, and what the configuration says of one is true of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arm_models.errors import UserError
from server.config import read_deployment
from server.runtime import load_runtime


@pytest.fixture(scope="module")
def backbone(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("llama", "runtime-backbone", seed=1)


def test_a_model_of_several_roles_is_loaded_once(
    backbone: Path, make_checkpoint: Callable[..., Path]
) -> None:
    tuned = str(make_checkpoint("llama", "runtime-tuned", seed=2))
    declared: dict[str, Any] = {
        "model": "m",
        "base": {"model": str(backbone), "negative_prompt": True},
        "rewards": [{"name": "pair", "model": tuned, "reference": str(backbone)}],
        "policies": [{"name": "safe", "model": tuned}],
    }
    told: list[str] = []
    runtime = load_runtime(read_deployment(declared, "d"), told.append)
    assert [line.split(":")[0] for line in told if line.startswith("loading")] == [
        "loading base",
        "loading pair",
    ]
    assert set(runtime.max_context) == {"base", "pair", "base.negative"}


def test_objectives_are_the_adapters_in_its_order(
    backbone: Path, make_conditioned: Callable[..., Path]
) -> None:
    adapter = make_conditioned(backbone, "runtime-parm", seed=3)
    declared: dict[str, Any] = {
        "model": "m",
        "base": {"model": str(backbone)},
        "conditioned": {"name": "parm", "model": str(adapter), "objectives": ["harmless", "helpful"]},
    }
    with pytest.raises(UserError, match=r"conditioned\.objectives: .* helpful, harmless, in this order"):
        load_runtime(read_deployment(declared, "d"), lambda _: None)
