"""From the values of a scalar head to those behind an answer's tokens."""

from torch import Tensor, arange

from arm_models.losses.log_probs import IGNORE, answer_lengths


def answer_values(values: Tensor, labels: Tensor) -> Tensor:
    """What the head says behind the first, second, … token of every row's answer.

    ``values``: ``[B, T]`` float, one behind each token of the row. ``labels``: ``[B, T]`` int64, ``IGNORE`` (-100)
    before and behind the answer. Returns ``[B, A]``, A the longest answer; a shorter one's last value stands in the
    places behind it. Raises ``ValueError`` when the shapes do not fit or a row has no answer.
    """
    if values.shape != labels.shape:
        raise ValueError(f"labels {tuple(labels.shape)} do not fit values {tuple(values.shape)}")
    lengths = answer_lengths(labels)
    if not bool((lengths > 0).all()):
        raise ValueError("a row has no answer")
    first = (labels != IGNORE).int().argmax(-1)
    places = arange(int(lengths.max()), device=labels.device).expand(len(labels), -1)
    places = places.minimum((lengths - 1).unsqueeze(-1))
    return values.gather(-1, first.unsqueeze(-1) + places)
