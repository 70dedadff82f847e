"""TR-DPO is DPO; only its reference moves, by a mix of weights."""

import torch

from arm_models.losses import LOSSES, moved


def test_the_terms_are_those_of_dpo() -> None:
    assert LOSSES["tr-dpo"].terms is LOSSES["dpo"].terms
    assert (LOSSES["dpo"].reference, LOSSES["tr-dpo"].reference) == ("fixed", "moving")


def test_a_move_is_the_stated_mix_and_leaves_both_weights_alone() -> None:
    reference, policy = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5])
    assert moved(reference, policy, 0.25).tolist() == [1.5, -1.375]
    assert moved(reference, policy, 0.0).tolist() == [1.0, -2.0]
    whole = moved(reference, policy, 1.0)
    policy += 1
    assert whole.tolist() == [3.0, 0.5] and reference.tolist() == [1.0, -2.0]
