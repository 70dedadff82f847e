"""Weights move by keys within their range and by words anywhere."""

import pytest

from server.terminal.weights import Reward, Weights, described, difference, read_weights


@pytest.fixture
def weights() -> Weights:
    return Weights([Reward("helpful", "helps", 0.5, 0.0, 1.0), Reward("harmless", "", 0.0, -1.0, 3.0)])


def test_keys_move_the_chosen_weight_and_stop_at_its_range(weights: Weights) -> None:
    for _ in range(3):
        weights.move(0.1)
    assert weights.values == {"helpful": 0.8, "harmless": 0.0}
    weights.move(0.5)
    assert weights.values["helpful"] == 1.0
    weights.turn(1)
    for _ in range(9):
        weights.move(-0.5)
    assert weights.values == {"helpful": 1.0, "harmless": -1.0}
    weights.off()
    assert str(weights.values["harmless"]) == "0.0"


def test_a_weight_set_outside_its_range_is_not_pulled_in(weights: Weights) -> None:
    weights.update({"helpful": 4.0})
    weights.move(0.5)
    assert weights.values["helpful"] == 4.0
    weights.move(-0.5)
    assert weights.values["helpful"] == 3.5


def test_choosing_goes_round_and_stays_within_what_there_is(weights: Weights) -> None:
    weights.turn(-1)
    assert weights.chosen == "harmless"
    weights.turn(1)
    assert weights.chosen == "helpful"
    weights.choose(1)
    weights.choose(7)
    assert weights.chosen == "harmless"


def test_without_rewards_nothing_moves() -> None:
    weights = Weights([])
    weights.turn(1)
    weights.move(0.1)
    weights.off()
    weights.choose(0)
    assert (weights.chosen, weights.values) == (None, {})


def test_bad_values_change_nothing(weights: Weights) -> None:
    before = weights.values
    for bad in ({"helpful": 0.1, "nope": 1.0}, {"helpful": 0.1, "harmless": float("nan")}):
        with pytest.raises(ValueError, match=r"nope|harmless"):
            weights.update(bad)
        assert weights.values == before


def test_replacing_turns_off_what_is_left_out(weights: Weights) -> None:
    weights.replace({"harmless": 2.0})
    assert weights.values == {"helpful": 0.0, "harmless": 2.0}


def test_words_are_read() -> None:
    assert read_weights(["a=1", "b=-0.5e1"]) == {"a": 1.0, "b": -5.0}
    for bad in ("a", "a=", "=1", "a=x", "a=nan", "a=inf"):
        with pytest.raises(ValueError, match="NAME=NUMBER"):
            read_weights([bad])


def test_the_chosen_weight_stands_in_brackets_until_the_server_has_it(weights: Weights) -> None:
    weights.move(0.25)
    assert described(weights) == "[helpful 0.75]  harmless 0 "
    assert described(weights, settled=False) == "[helpful 0.75…]  harmless 0 "


def test_a_difference_names_what_differs() -> None:
    before, after = {"a": 0.5, "b": 0.0, "c": 1.0}, {"a": 0.7, "b": 0.2, "c": 1.0}
    assert difference(before, after) == "a 0.5→0.7, b 0→0.2"
