"""How much of everything goes into a build of the demo: the full plan that is shipped, and a quick one for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from arm_models.demo.architecture import BASE, REWARD, TINY, Shape
from arm_models.demo.pretraining import PretrainingSettings

REWARDS = ("helpful", "harmless", "concise")


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """How an ARM is trained: ``steps`` updates of ``batch_size`` pairs, β_r, and the weight of the chosen NLL."""

    steps: int
    batch_size: int = 16
    learning_rate: float = 1e-3
    beta: float = 0.05
    sft_weight: float = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes and lengths of one build. ``reward_start`` trains the small model that all ARMs start from.

    ``sharpness`` multiplies the finished base's head: its temperature 1 is what 1 / sharpness was in training. So short a
    training leaves a tail of improbable tokens that a longer one would cut. ``made_up`` is the share of the base's
    conversations that are about made-up tasks.
    """

    vocabulary: int
    tokenizer_texts: int
    base_shape: Shape
    reward_shape: Shape
    sharpness: float
    made_up: float
    base: PretrainingSettings
    reward_start: PretrainingSettings
    rewards: Mapping[str, RewardSettings]
    held_out_prompts: int


def full_plan(seed: int) -> Plan:
    """The plan of the shipped models."""
    return Plan(
        vocabulary=3200,
        tokenizer_texts=20_000,
        base_shape=BASE,
        reward_shape=REWARD,
        sharpness=1.5,
        made_up=0.25,
        base=PretrainingSettings(steps=2400, batch_size=40, learning_rate=7e-3, seed=seed),
        reward_start=PretrainingSettings(steps=1200, batch_size=32, learning_rate=8e-3, seed=seed),
        rewards={
            "helpful": RewardSettings(steps=1000),
            "harmless": RewardSettings(steps=700),
            "concise": RewardSettings(steps=300),
        },
        held_out_prompts=240,
    )


def quick_plan(seed: int) -> Plan:
    """A plan of seconds: every stage runs, nothing is learned to any use."""
    training = PretrainingSettings(steps=12, batch_size=4, warmup=2, seed=seed, checkpoint_every=4)
    return Plan(
        vocabulary=512,
        tokenizer_texts=400,
        base_shape=TINY,
        reward_shape=TINY,
        sharpness=1.0,
        made_up=0.25,
        base=training,
        reward_start=training,
        rewards={reward: RewardSettings(steps=6, batch_size=4) for reward in REWARDS},
        held_out_prompts=10,
    )
