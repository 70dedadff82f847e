"""What a server consists of is not looked through again and again, and what has gone of it is found all the same."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from server import garbage


class Cycle:
    def __init__(self) -> None:
        self.own = self


@pytest.fixture(autouse=True)
def thaw() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_what_was_set_aside_is_not_looked_at_until_it_is_asked_for() -> None:
    early, gone = Cycle(), weakref.ref(Cycle())
    before, seen = len(gc.get_objects()), weakref.ref(early)
    garbage.set_aside()
    assert gone() is None
    assert len(gc.get_objects()) < before / 100
    del early
    gc.collect()
    assert seen() is not None
    garbage.look_everywhere()
    assert seen() is None
    assert gc.get_freeze_count() > before / 2


def test_nothing_is_set_aside_by_looking() -> None:
    gone = weakref.ref(Cycle())
    garbage.look_everywhere()
    assert gone() is None
    assert gc.get_freeze_count() == 0
