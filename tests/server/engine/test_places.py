"""Fewer side by side after a step that ran out of memory, then one more after another."""

from server.engine.places import LONGEST, PATIENCE, Places


def draw(places: Places, steps: int) -> int:
    for _ in range(steps):
        places.drew()
    return places.now


def test_half_of_those_that_ran_run_on_and_all_may_again_in_the_end() -> None:
    places = Places(8)
    assert not places.ran_out(6, None)
    assert places.now == 3
    assert draw(places, PATIENCE - 1) == 3
    assert draw(places, 1) == 4
    assert draw(places, 4 * PATIENCE) == 8
    assert draw(places, 100 * PATIENCE) == 8
    assert places.faults == 1


def test_who_runs_gets_further_each_time_before_more_are_tried() -> None:
    places = Places(8)
    places.ran_out(2, None)
    waits = []
    for _ in range(4):
        steps = 0
        while places.now == 1:
            places.drew()
            steps += 1
        waits.append(steps)
        places.ran_out(2, None)
    assert waits == [PATIENCE, 2 * PATIENCE, 4 * PATIENCE, 8 * PATIENCE]


def test_once_all_run_again_the_next_fault_is_the_first() -> None:
    places = Places(2)
    for _ in range(2):
        places.ran_out(2, None)
        assert draw(places, PATIENCE - 1) == 1
        assert draw(places, 1) == 2


def test_one_that_runs_out_alone_has_a_second_chance_and_more_if_it_gets_further() -> None:
    places = Places(8)
    assert not places.ran_out(1, None)
    assert places.now == 1
    assert not places.ran_out(1, "a")
    places.drew()
    assert not places.ran_out(1, "a")
    assert not places.ran_out(0, "b")
    assert places.ran_out(1, "b")


def test_a_long_shortage_does_not_keep_all_from_running_for_long_once_it_is_over() -> None:
    places = Places(8)
    for _ in range(50):
        places.ran_out(1, None)
    assert draw(places, 7 * LONGEST - 1) == 7
    assert draw(places, 1) == 8
