"""PARM (arXiv 2505.06274): one autoregressive reward model for every preference vector over several objectives."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor, stack, tensor

from arm_models.losses.arm import ARM

CONCENTRATION = 0.5
"""Of the Dirichlet distribution that preference vectors are drawn from in training: corners and edges more than the middle."""
_STREAM = 2505  # apart from the data order, which has the same seed


def sampled_preference(seed: int, step: int, objectives: int) -> tuple[float, ...]:
    """The preference vector p of update ``step``: ``objectives`` numbers ≥ 0 whose sum is 1, from seed and step alone."""
    generator = np.random.default_rng([seed, step, _STREAM])
    return tuple(float(share) for share in generator.dirichlet([CONCENTRATION] * objectives))


def parm_loss(losses: Sequence[Tensor], preference: Sequence[float]) -> Tensor:
    """Σ_i p_i L_i: ``losses`` are each objective's mean ARM loss, scalars, under the model conditioned on p."""
    return (stack(list(losses)) * tensor(list(preference), dtype=losses[0].dtype)).sum()


PARM = replace(
    ARM,
    name="parm",
    summary="one autoregressive reward model for several objectives, conditioned on the preference vector",
    settings=ARM.settings | {"objectives", "eval_objectives", "pblora_r1", "pblora_r2", "pblora_scale"},
    serving="conditioned: {{name: {name}, model: {model}, objectives: [{objectives}]}}",
    model="conditioned",
)
