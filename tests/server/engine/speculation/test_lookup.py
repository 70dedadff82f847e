"""Where a text repeats itself."""

import random

from server.engine.speculation.lookup import Lookup


def test_what_followed_the_last_time_is_what_may_follow_now() -> None:
    lookup = Lookup([1, 2, 3, 4, 5, 1, 2, 3])
    assert lookup.continuation(2) == [4, 5]
    assert lookup.continuation(7) == [4, 5, 1, 2, 3, 4, 5]
    lookup.extend([9, 1, 2, 3])
    assert lookup.continuation(1) == [9]


def test_three_tokens_count_more_than_two_and_one_does_not_count() -> None:
    assert Lookup([1, 2, 3, 7, 9, 2, 3, 8, 1, 2, 3]).continuation(1) == [7]
    assert Lookup([4, 5, 6, 9, 5, 6]).continuation(1) == [9]
    assert Lookup([4, 5, 6, 7, 5]).continuation(1) == []
    assert Lookup([]).continuation(3) == []


def test_it_finds_what_a_search_from_the_end_finds() -> None:
    rng = random.Random(0)
    text: list[int] = [rng.randrange(3) for _ in range(5)]
    lookup = Lookup(text)
    for _ in range(300):
        expected: list[int] = []
        for length in (2, 3):
            for end in range(length, len(text)):
                if text[end - length : end] == text[-length:]:
                    expected = (text[end:] * 4)[:4]
        assert lookup.continuation(4) == expected
        token = rng.randrange(3)
        text.append(token)
        lookup.extend([token])
    assert lookup.length == len(text)
