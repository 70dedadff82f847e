"""How much of everything goes into the comparison: the full plan, and one of seconds that shows that all of it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from arm_models.demo.architecture import Shape

SMALL = Shape(layers=3, hidden=128, intermediate=320, heads=4, kv_heads=2, tied=True)
"""0.93 million parameters with the demo's vocabulary, 4.3 times fewer than the base's 3.97 million."""

_LARGE: Mapping[str, Any] = {"learning_rate": 5e-4}
_DPO: Mapping[str, Any] = {"learning_rate": 3e-4, "beta": 0.1}
_SMALL: Mapping[str, Any] = {"learning_rate": 1e-3}


@dataclass(frozen=True, slots=True)
class Training:
    """How models of one kind are trained: ``updates`` of ``batch`` pairs, and what is said to `genarm train` besides.

    ``small``: from the small start model instead of the base.
    """

    loss: str
    updates: int
    small: bool = False
    batch: int = 16
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """One comparison.

    Attributes:
        seeds: training seeds: of the pairs, and of everything random in training.
        pairs: preference pairs of a seed and objective.
        start_steps: updates of the small start model, of ``start_batch`` conversations.
        trainings: by kind, see ``models.py``.
        dera_betas: β of the policies retrained for DeRa, by λ = β_DPO/β; of the first seed.
        prompts, prompt_seed: held-out prompts that everything is measured on.
        validation, validation_seed: other ones, on which each method's weight is chosen.
        grids: by method, the weights that are swept.
        simplex: points of a frontier between two objectives.
        candidates: N of best-of-N.
        darwin, transfer: parameters of these searches; ``transfer_prompts`` and ``transfer_weights``: on how many prompts, and w.
        cost_prompts: prompts that time is taken on, side by side; ``cost_single`` one after the other.
        max_tokens: of an answer.
    """

    seeds: tuple[int, ...]
    pairs: int
    start_steps: int
    start_batch: int
    trainings: Mapping[str, Training]
    dera_betas: Mapping[float, float]
    prompts: int
    prompt_seed: int
    validation: int
    validation_seed: int
    grids: Mapping[str, tuple[float, ...]]
    simplex: int
    candidates: tuple[int, ...]
    darwin: Mapping[str, Any]
    transfer: Mapping[str, Any]
    transfer_prompts: int
    transfer_weights: tuple[float, ...]
    cost_prompts: int
    cost_single: int
    max_tokens: int


def full_plan() -> Plan:
    """The plan of docs/evaluation.md."""
    kept = {"sft_weight": 0.05, "beta": 0.05}
    return Plan(
        seeds=(0, 1, 2),
        pairs=3200,
        start_steps=700,
        start_batch=32,
        trainings={
            "arm": Training("arm", 200, settings={**_LARGE, **kept}),
            "dpo": Training("dpo", 200, settings=_DPO),
            "parm": Training("parm", 200, settings={**kept, "learning_rate": 0.01}),
            "tr-dpo": Training("tr-dpo", 200, settings={**_DPO, "reference_sync_steps": 50}),
            "small-arm": Training("arm", 400, small=True, settings={**_SMALL, **kept}),
            "small-dpo": Training("dpo", 400, small=True, settings={**_SMALL, "beta": 0.1}),
            "small-bt": Training("bt", 400, small=True, settings=_SMALL),
            "small-prefix": Training("bt-prefix", 400, small=True, settings=_SMALL),
        },
        dera_betas={0.5: 0.2, 2.0: 0.05},
        prompts=300,
        prompt_seed=2024,
        validation=100,
        validation_seed=77,
        grids={
            "genarm": (0.5, 1.0, 1.5, 2.0),
            "dera": (0.5, 1.0, 1.5, 2.0),
            "args": (0.5, 1.0, 2.0, 4.0),
            "pargs": (0.5, 1.0, 2.0, 4.0),
            "proxy": (0.5, 1.0, 2.0),
        },
        simplex=9,
        candidates=(4, 8, 16, 32),
        darwin={"iterations": 3, "mutations": 5, "m": 10, "keep": 3},
        transfer={"k": 10, "rollout_tokens": 20},
        transfer_prompts=300,
        transfer_weights=(0.5, 2.0),
        cost_prompts=32,
        cost_single=4,
        max_tokens=120,
    )


def quick_plan() -> Plan:
    """Everything once, and as little of it as there can be; its figures mean nothing."""
    full = full_plan()
    return Plan(
        seeds=(0,),
        pairs=16,
        start_steps=2,
        start_batch=4,
        trainings={
            name: Training(one.loss, 2, one.small, 4, one.settings) for name, one in full.trainings.items()
        },
        dera_betas={2.0: 0.05},
        prompts=12,
        prompt_seed=2024,
        validation=4,
        validation_seed=77,
        grids=dict.fromkeys(full.grids, (0.5, 1.0)),
        simplex=3,
        candidates=(2, 3),
        darwin={"iterations": 1, "mutations": 2, "m": 4, "keep": 1},
        transfer={"k": 2, "rollout_tokens": 2},
        transfer_prompts=3,
        transfer_weights=(1.0,),
        cost_prompts=2,
        cost_single=2,
        max_tokens=8,
    )
