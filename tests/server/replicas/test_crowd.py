"""Who begins alike goes together, until so many do at once that each conversation goes its own way."""

from contextlib import ExitStack

from server.replicas.affinity import ANYWHERE, Likeness
from server.replicas.crowd import CROWD_SECONDS, Crowds

MANY = 3


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ask(crowds: Crowds, conversation: str, beginning: str = "b") -> str:
    with crowds.joined(Likeness(beginning, conversation)) as key:
        return key


def test_one_after_the_other_all_go_where_their_beginning_does() -> None:
    crowds = Crowds(MANY)
    assert {ask(crowds, f"c{number}") for number in range(20)} == {"b"}


def test_in_a_crowd_each_goes_by_its_conversation_and_others_do_not_mind() -> None:
    crowds = Crowds(MANY)
    with ExitStack() as under_way:
        keys = [under_way.enter_context(crowds.joined(Likeness("b", f"c{number}"))) for number in range(5)]
        assert keys == ["b", "b", "b", "c3", "c4"]
        assert ask(crowds, "c0") == "c0"
        assert ask(crowds, "c0", "other") == "other"


def test_a_crowd_that_shrinks_is_one_for_a_while_and_then_no_more() -> None:
    clock = Clock()
    crowds = Crowds(MANY, clock)
    with ExitStack() as under_way:
        for number in range(MANY + 1):
            under_way.enter_context(crowds.joined(Likeness("b", f"c{number}")))
    clock.now = CROWD_SECONDS - 1
    assert ask(crowds, "c9") == "c9"
    clock.now = CROWD_SECONDS
    assert ask(crowds, "c9") == "b"


def test_what_goes_anywhere_is_no_crowd() -> None:
    crowds = Crowds(1)
    with crowds.joined(Likeness()) as one, crowds.joined(Likeness()) as two:
        assert (one, two) == (ANYWHERE, ANYWHERE)


def test_nothing_is_kept_of_who_has_left_but_crowds_of_late() -> None:
    clock = Clock()
    crowds = Crowds(1, clock)
    for number in range(50):
        clock.now = number * 100.0
        with (
            crowds.joined(Likeness(f"b{number}", "c")),
            crowds.joined(Likeness(f"b{number}", "d")),
        ):
            pass
    assert not crowds._under_way
    assert len(crowds._until) <= CROWD_SECONDS / 100 + 1
