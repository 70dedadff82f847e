"""MIP, the mean inner product (arXiv 2505.06274): do the rewards go where the preferences point?"""

from __future__ import annotations

from collections.abc import Sequence


def mean_inner_product(preferences: Sequence[Sequence[float]], rewards: Sequence[Sequence[float]]) -> float:
    """The mean over settings of Σ_i p_i · r_i, where p is the setting's preference vector scaled to Σ p = 1.

    ``preferences``, ``rewards``: one vector per setting, of the same objectives. Raises ``ValueError`` for no settings, vectors
    of other lengths, and preferences that are negative or all 0.
    """
    if not preferences or len(preferences) != len(rewards):
        raise ValueError(f"{len(preferences)} preference vectors and {len(rewards)} reward vectors")
    products = []
    for wanted, got in zip(preferences, rewards, strict=True):
        total = sum(wanted)
        if len(wanted) != len(got) or min(wanted) < 0 or total <= 0:
            raise ValueError(f"no preference vector for rewards {tuple(got)}: {tuple(wanted)}")
        products.append(sum(p * r for p, r in zip(wanted, got, strict=True)) / total)
    return sum(products) / len(products)
