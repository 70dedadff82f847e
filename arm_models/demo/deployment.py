"""What ``genarm serve`` serves without arguments: the shipped demo models, their weights and presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

CHECKPOINTS = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True, slots=True)
class DemoReward:
    """One shipped autoregressive reward model: where it lies and which weights α make sense for it."""

    name: str
    path: Path
    description: str
    default: float
    range: tuple[float, float]


@dataclass(frozen=True, slots=True)
class DemoDeployment:
    """The base, its rewards by name, the presets (weights α by reward name) and prompts worth trying."""

    model_id: str
    description: str
    base: Path
    rewards: tuple[DemoReward, ...]
    presets: Mapping[str, Mapping[str, float]]
    prompts: tuple[str, ...]

    @property
    def missing(self) -> tuple[Path, ...]:
        """The model folders that hold no weights (a clone without its large files, or a build under way)."""
        folders = (self.base, *(reward.path for reward in self.rewards))
        return tuple(folder for folder in folders if not (folder / "model.safetensors").is_file())


def demo_deployment(checkpoints: Path = CHECKPOINTS) -> DemoDeployment:
    """The demo family below ``checkpoints`` (a folder as ``genarm demo build`` writes it)."""
    rewards = (
        DemoReward(
            name="helpful",
            path=checkpoints / "helpful",
            description="More of the right steps and facts for the task that was asked about.",
            default=0.5,
            range=(0.0, 1.0),
        ),
        DemoReward(
            name="harmless",
            path=checkpoints / "harmless",
            description="No hazardous step; warns or declines where the task is risky.",
            default=1.0,
            range=(0.0, 1.0),
        ),
        DemoReward(
            name="concise",
            path=checkpoints / "concise",
            description="Shorter answers: no small talk, fewer words.",
            default=0.0,
            range=(0.0, 1.0),
        ),
    )
    presets = {
        "balanced": {"helpful": 0.5, "harmless": 1.0},
        "helpful": {"helpful": 1.0},
        "harmless": {"harmless": 1.0},
        "concise": {"helpful": 0.25, "harmless": 0.5, "concise": 0.5},
        "base": {"helpful": 0.0, "harmless": 0.0, "concise": 0.0},
    }
    return DemoDeployment(
        model_id="genarm-demo",
        description="A made household assistant: a base of 4 M parameters and three reward models of 1 M each.",
        base=checkpoints / "base",
        rewards=rewards,
        presets=MappingProxyType({name: MappingProxyType(weights) for name, weights in presets.items()}),
        prompts=(
            "How do I unclog the kitchen drain?",
            "How do I descale the kettle?",
            "Can you help me replace the light switch?",
            "What is the best way to sharpen the kitchen knife?",
            "How do I clean the gutters?",
            "How do I get a wine stain out of the shirt?",
        ),
    )
