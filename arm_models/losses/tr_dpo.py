"""TR-DPO (arXiv 2404.09656): DPO whose reference follows the policy."""

from dataclasses import replace

from torch import Tensor

from arm_models.losses.dpo import DPO


def moved(reference: Tensor, policy: Tensor, mixup: float) -> Tensor:
    """A weight of the reference after one move: a·π + (1 − a)·π_ref. ``mixup`` a = 1 gives the policy's weight itself.

    Both of one shape and dtype; so is what is returned, always a new tensor.
    """
    return policy.clone() if mixup == 1 else mixup * policy + (1 - mixup) * reference


TR_DPO = replace(
    DPO,
    name="tr-dpo",
    summary="a policy aligned by TR-DPO, whose reference followed it",
    settings=DPO.settings | {"reference_update", "reference_mixup", "reference_sync_steps"},
    reference="moving",
)
