"""A follower says that it has no memory until it is told to begin anew, and lets go of members that leave."""

import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from server.engine.cache.kv_cache import KVCache, KVShape
from server.engine.sharding.follower import Follower
from server.engine.sharding.journal import Forward, Journal, Op
from server.engine.sharding.leader import FINE, OUT_OF_MEMORY

SHAPE = KVShape(1, 1, 2, torch.float32, torch.device("cpu"))


class Ranks:
    """Says what is put into ``messages``; ``told``: how the follower fared with each."""

    rank = 1
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.messages: list[Sequence[int]] = []
        self.told: list[int] = []

    def hear(self) -> Sequence[int]:
        return self.messages.pop(0)

    def worst(self, status: int) -> int:
        self.told.append(status)
        return status


class Member:
    """A member, whose model holds itself in a cycle, as those with hooks do."""

    def __init__(self) -> None:
        self.name = "m"
        self.cache = KVCache(SHAPE, 256)
        self.runner = self
        self.loaded = self
        self.model = torch.nn.Identity()
        self.model.itself = [self.model]
        self.vacated: list[str] = []

    def vacate(self, name: str) -> None:
        self.vacated.append(name)


@pytest.fixture
def ranks() -> Any:
    return Ranks()


def told(ranks: Any, follower: Follower, *notes: tuple[Op, *tuple[int, ...]]) -> int:
    """How it fares with these, all of member 3."""
    journal = Journal()
    for op, *arguments in notes:
        journal.note(op, 3, *arguments)
    ranks.messages.append(journal.close_with(Forward(0, ())))
    follower.step()
    status: int = ranks.told[-1]
    return status


def test_who_is_short_of_memory_says_so_until_it_begins_anew(
    ranks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    member: Any = Member()
    follower = Follower(ranks, {3: member})

    def short(*_: Any) -> bool:
        raise torch.OutOfMemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(member.cache, "reserve", short)
        assert told(ranks, follower, (Op.RESERVE, 0, 10)) == OUT_OF_MEMORY
    assert told(ranks, follower) == OUT_OF_MEMORY, "rank 0 did not mind then, and has to now"
    assert told(ranks, follower, (Op.CLEAR,)) == FINE
    assert told(ranks, follower, (Op.RESERVE, 0, 10)) == FINE


@pytest.mark.parametrize("torn", [False, True])
def test_a_member_that_leaves_is_gone_with_its_weights(ranks: Any, torn: bool) -> None:
    member: Any = Member()
    cache, vacated, model = member.cache, member.vacated, weakref.ref(member.model)
    follower = Follower(ranks, {3: member})
    del member
    assert told(ranks, follower, (Op.RESERVE, 0, 10), (Op.OFFER, 0)) == FINE
    follower._mirrors[3].torn = torn
    assert told(ranks, follower, (Op.CLOSE,), (Op.VACATE,)) == FINE
    assert vacated == ["m"]
    assert model() is None
    assert cache.num_blocks == 0
    assert told(ranks, follower, (Op.TRIM,)) == FINE, "what is said of it then is nobody's"
