"""What a loss is to the training loop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Model = Literal["language", "scalar", "conditioned"]
"""What is trained: a language model, one with a scalar head in place of its vocabulary, or an adapter on a language
model that depends on a preference vector."""
Reference = Literal["none", "fixed", "moving"]
"""The model a loss compares with: none, the one that training starts from, or one that follows the trained one."""


@dataclass(frozen=True)
class ScoredPairs:
    """What the model says of a batch of pairs. B pairs, A tokens of the longest answer.

    chosen, rejected: ``[B]``, summed log-probs in nats, or a scalar head's value behind the last token.
    chosen_length, rejected_length: ``[B]`` tokens, EOS included.
    reference_chosen, reference_rejected: ``[B]``, the reference's log-probs, where the loss has one.
    chosen_values, rejected_values: ``[B, A]``, a scalar head's values behind each token of the answers.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_length: Tensor
    rejected_length: Tensor
    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None
    chosen_values: Tensor | None = None
    rejected_values: Tensor | None = None


@dataclass(frozen=True)
class LossSettings:
    """The numbers a loss depends on.

    beta: β or β_r. length_normalized: mean instead of summed log-probs. sft_weight: weight of the chosen answer's NLL,
    which is per token of the answer (sft_reduction "token") or summed over it ("sequence"). prefix_reduction: "sum" or
    "mean" over a pair's prefixes.
    """

    beta: float = 0.05
    length_normalized: bool = False
    sft_weight: float = 0.0
    sft_reduction: str = "token"
    prefix_reduction: str = "sum"


def difference(pairs: ScoredPairs) -> Tensor:
    """By how much the chosen answer is ahead: ``[B]``."""
    return pairs.chosen - pairs.rejected


@dataclass(frozen=True)
class Loss:
    """One way to train on preference pairs.

    name: for `--loss`. summary: one line for help and card. terms: scored pairs → one loss per pair, ``[B]``; the
    batch's loss is their mean. settings: the training settings that only some losses have and this one uses. margin:
    ``[B]``, above 0 where the pair is ranked right. serving: how a deployment names what comes out, YAML with {name},
    {model}, {start} and {objectives} to be filled in.
    """

    name: str
    summary: str
    terms: Callable[[ScoredPairs, LossSettings], Tensor]
    settings: frozenset[str]
    serving: str
    model: Model = "language"
    reference: Reference = "none"
    margin: Callable[[ScoredPairs], Tensor] = difference
