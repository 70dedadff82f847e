"""What rank 0 notes is what the others read: ops in their order, then the forward, every number of it."""

import math

import pytest

from server.engine.chunk import Chunk
from server.engine.sharding.journal import EVERYONE, Forward, Journal, Note, Op, Part, read


def test_a_message_is_read_as_it_was_written() -> None:
    journal = Journal()
    journal.note(Op.RESERVE, 0, 7, 130)
    journal.note(Op.COPY, 2, 7, 8, 64)
    journal.note(Op.EVICT, 1)
    forward = Forward(
        drawn=3,
        parts=(
            Part(0, 11, ((EVERYONE, Chunk(7, (5, -2, 9), 127, False, 2)),)),
            Part(
                2,
                4,
                (
                    (1, Chunk(8, (5,), 0, True, 0, condition=(0.1, -math.pi))),
                    (0, Chunk(9, (1, 2), 30, False, 2, apart=True)),
                ),
            ),
        ),
    )
    notes, told = read(journal.close_with(forward))
    assert notes == [
        Note(Op.RESERVE, 0, (7, 130)),
        Note(Op.COPY, 2, (7, 8, 64)),
        Note(Op.EVICT, 1),
    ]
    assert told == forward


def test_what_has_been_told_is_not_told_again() -> None:
    journal = Journal()
    journal.note(Op.FREE, 0, 1)
    assert len(read(journal.close_with(Forward(0, ())))[0]) == 1
    assert read(journal.close_with(Forward(0, ()))) == ([], Forward(0, ()))


@pytest.mark.parametrize(
    "words",
    [
        [],
        [99],
        [Op.RESERVE, 0, 7],
        [Op.TRIM, 0],
        [Op.FORWARD, 0, 1],
        [Op.FORWARD, 0, 0, 5],
    ],
    ids=["nothing", "an op nobody knows", "cut short", "no forward", "half a forward", "more behind it"],
)
def test_what_is_no_message_is_refused(words: list[int]) -> None:
    with pytest.raises(ValueError, match=r"message|not a valid Op"):
        read(words)
