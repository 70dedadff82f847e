"""A preference that a tiny model learns in seconds, and the shortest way to a run."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from arm_models.training import TrainConfig

WORDS = [
    "kettle",
    "hot",
    "garden",
    "green",
    "water",
    "plants",
    "before",
    "sun",
    "high",
    "oven",
    "cool",
    "soap",
]


def preference(number: int) -> dict[str, Any]:
    """A pair whose chosen answer ends in "please" and whose rejected one ends in "never"."""
    rng = random.Random(number)
    length = rng.randint(1, 3)
    prompt, one, other = (" ".join(rng.choices(WORDS, k=k)) for k in (5, length, length))
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": f"{one} please"}],
        "rejected": [{"role": "assistant", "content": f"{other} never"}],
    }


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 pairs as JSONL, conversational."""
    path = tmp_path_factory.mktemp("data") / "polite.jsonl"
    path.write_text("".join(json.dumps(preference(n)) + "\n" for n in range(160)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def start(make_checkpoint: Callable[..., Path]) -> Path:
    """A Llama of 2 layers x 32 to start from."""
    return make_checkpoint("llama", "start", seed=1)


@pytest.fixture
def make_config(start: Path, pairs: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """``make_config(output="out", …)``: six updates of 16 pairs unless told otherwise."""

    def make(output: str = "out", **changes: Any) -> TrainConfig:
        settings: dict[str, Any] = {
            "model_name_or_path": str(start),
            "dataset_name": str(pairs),
            "output_dir": str(tmp_path / output),
            "learning_rate": 3e-3,
            "max_steps": 6,
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 2,
            "save_steps": 0,
            "use_cpu": True,
        }
        return TrainConfig(**settings | changes)

    return make


@pytest.fixture(scope="session")
def weights_of() -> Callable[[Path], dict[str, Tensor]]:
    """The tensors of the model or adapter in a folder."""

    def load(folder: Path) -> dict[str, Tensor]:
        (file,) = folder.glob("*.safetensors")
        return load_file(file)

    return load
