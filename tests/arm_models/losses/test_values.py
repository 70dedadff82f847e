"""A scalar head's values are those behind an answer's own tokens."""

import pytest
import torch

from arm_models.losses import IGNORE, answer_values


def test_values_are_taken_behind_each_token_of_the_answer_and_the_last_is_held() -> None:
    values = torch.arange(12.0).view(2, 6)
    labels = torch.tensor([[IGNORE, IGNORE, 4, 5, 6, IGNORE], [IGNORE, 3, IGNORE, IGNORE, IGNORE, IGNORE]])
    assert answer_values(values, labels).tolist() == [[2.0, 3.0, 4.0], [7.0, 7.0, 7.0]]


def test_rows_without_an_answer_and_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="a row has no answer"):
        answer_values(torch.zeros(1, 2), torch.full((1, 2), IGNORE))
    with pytest.raises(ValueError, match="do not fit values"):
        answer_values(torch.zeros(1, 2), torch.zeros(1, 3))
