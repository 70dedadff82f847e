"""Preference losses as pure functions on tensors, one file each, and the table by which `--loss` finds them.

A preference pair is one prompt with two answers, y^w (chosen) and y^l (rejected).

log_probs.py    logits → summed log-probs of answers
values.py       a scalar head's values → those behind each token of answers
loss.py         what a loss is to the training loop: its terms, the model and the reference it needs, its settings
supervised.py   the chosen answer's NLL beside a loss
arm.py          GenARM: log-probs, no reference
dpo.py          DPO: log-ratios to the start model
tr_dpo.py       TR-DPO: the same with a reference that follows
parm.py         PARM: GenARM's for several objectives, conditioned on the preference vector
bt.py           Bradley-Terry on a scalar head's value of the whole response
bt_prefix.py    the same on every prefix (PARGS)

To add one: write its file and give it a place in ``LOSSES``.
"""

from collections.abc import Mapping
from types import MappingProxyType

from arm_models.losses.arm import ARM, arm_loss, arm_objective
from arm_models.losses.bt import BT
from arm_models.losses.bt_prefix import BT_PREFIX
from arm_models.losses.dpo import DPO
from arm_models.losses.log_probs import IGNORE, answer_lengths, sequence_log_probs
from arm_models.losses.loss import Loss, LossSettings, ScoredPairs
from arm_models.losses.parm import PARM, parm_loss, sampled_preference
from arm_models.losses.tr_dpo import TR_DPO, moved
from arm_models.losses.values import answer_values

__all__ = [
    "IGNORE",
    "LOSSES",
    "Loss",
    "LossSettings",
    "ScoredPairs",
    "answer_lengths",
    "answer_values",
    "arm_loss",
    "arm_objective",
    "moved",
    "parm_loss",
    "sampled_preference",
    "sequence_log_probs",
]

LOSSES: Mapping[str, Loss] = MappingProxyType(
    {loss.name: loss for loss in (ARM, DPO, TR_DPO, BT, BT_PREFIX, PARM)}
)
"""What `--loss` can name."""
