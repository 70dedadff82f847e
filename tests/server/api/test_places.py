"""Places are taken when they are checked, and one key leaves some to others."""

import pytest

from server.api.places import Claim, Places
from server.errors import ConcurrencyLimit, InvalidRequest, QueueFull


def claim(owner: str, places: int = 1, most: int | None = None) -> Claim:
    return Claim(owner, places, arrived=0.0, most=most)


def fill(places: Places, owner: str) -> int:
    """Takes what ``owner`` gets, one by one."""
    for taken in range(1000):
        try:
            places.take(claim(owner))
        except QueueFull:
            return taken
    raise AssertionError("there was no end to it")


def test_there_are_as_many_places_as_there_are_and_all_come_back() -> None:
    places = Places(5)
    places.take(claim("", 3))
    with pytest.raises(QueueFull) as full:
        places.take(claim("", 3))
    assert (full.value.status, full.value.code, full.value.retry_after) == (429, "queue_full", 1)
    assert places.taken == 3
    places.take(claim("", 2))
    places.leave("", 5)
    assert places.taken == 0
    assert fill(places, "") == 5


def test_with_several_keys_one_takes_its_share_of_what_others_leave() -> None:
    places = Places(100, share=lambda: 0.75)
    assert fill(places, "flood") == 75
    assert fill(places, "another flood") == 18  # three quarters of 25
    assert fill(places, "third") == 5
    for _ in range(2):
        places.take(claim("quiet"))  # whoever has nothing, or little, is let in
        places.leave("quiet", 1)
    places.leave("flood", 75)
    assert fill(places, "third") > 50


def test_a_key_with_nothing_under_way_may_take_all_there_is() -> None:
    places = Places(4, share=lambda: 0.5)
    places.take(claim("a", 4))
    places.leave("a", 4)
    places.take(claim("a", 2))
    with pytest.raises(QueueFull, match="one key"):
        places.take(claim("a"))


def test_the_share_is_asked_for_anew_every_time() -> None:
    share = 1.0
    places = Places(10, share=lambda: share)
    for _ in range(8):
        places.take(claim("a"))
    share = 0.75
    with pytest.raises(QueueFull):
        places.take(claim("a"))


def test_a_key_has_no_more_under_way_than_it_may() -> None:
    places = Places(10)
    places.take(claim("a", 2, most=3))
    with pytest.raises(ConcurrencyLimit, match="has 2 answers under way and may have 3") as refused:
        places.take(claim("a", 2, most=3))
    assert (refused.value.status, refused.value.code) == (429, "concurrency_limit")
    assert refused.value.retry_after
    places.take(claim("a", 1, most=3))
    places.take(claim("b", 3, most=3))
    assert places.taken == 6


def test_tokens_are_bounded_together_and_per_key_and_come_back() -> None:
    places = Places(100, tokens=1000, share=lambda: 0.75)
    for owner, tokens in (("a", 400), ("a", 300), ("b", 200)):
        places.take(claim(owner))
        places.take_tokens(owner, tokens)
    with pytest.raises(QueueFull, match="one key"):
        places.take_tokens("a", 51)
    with pytest.raises(QueueFull, match="is full"):
        places.take_tokens("c", 101)
    assert places.taken_tokens == 900
    places.leave("a", 1, 400)
    places.take_tokens("c", 500)
    assert places.taken_tokens == 1000


def test_more_tokens_than_ever_fit_are_the_requests_fault() -> None:
    with pytest.raises(InvalidRequest, match="at most 1000 tokens at once; this request asks for 1001"):
        Places(10, tokens=1000).take_tokens("a", 1001)
    Places(10).take_tokens("a", 10**9)


def test_nothing_is_kept_of_keys_that_have_nothing() -> None:
    places = Places(10, tokens=10)
    for number in range(100):
        places.take(claim(f"key {number}"))
        places.take_tokens(f"key {number}", 5)
        places.leave(f"key {number}", 1, 5)
    assert not places._places
    assert not places._owned_tokens
