"""An id leads to its replica for who has the secret; nobody else can make, read or change one."""

import re

import pytest

from server.replicas.ticket import Tickets

TICKETS = Tickets(b"s" * 32)


@pytest.mark.parametrize("prefix", ["chatcmpl-", "cmpl-", "resp_"])
@pytest.mark.parametrize("replica", ["a", "k3fx0q2m", "r" * 32])
def test_an_id_leads_to_the_replica_that_made_it(prefix: str, replica: str) -> None:
    id = TICKETS.new(prefix, replica)
    assert re.fullmatch(rf"{prefix}[0-9a-f]+", id)
    assert TICKETS.replica(id) == replica


def test_ids_of_one_replica_have_nothing_in_common() -> None:
    ids = [TICKETS.new("cmpl-", "k3fx0q2m")[5:] for _ in range(200)]
    assert len(set(ids)) == 200
    for column in zip(*ids, strict=True):
        assert len(set(column)) > 8, "a digit that is the same in all says something"


def test_no_change_of_any_character_is_taken() -> None:
    id = TICKETS.new("chatcmpl-", "k3fx0q2m")
    for place, character in enumerate(id):
        for other in "0f-Zz":
            if other != character:
                assert TICKETS.replica(id[:place] + other + id[place + 1 :]) is None
    for forged in (id[:-1], id[:-2], id + "00", id[2:], f"cmpl-{id[9:]}", id.upper(), f"{id}\n", f" {id}"):
        assert TICKETS.replica(forged) is None


def test_halves_of_two_ids_are_no_id() -> None:
    one, two = TICKETS.new("cmpl-", "aaaaaaaa"), TICKETS.new("cmpl-", "bbbbbbbb")
    for cut in range(6, len(one)):
        mixed = one[:cut] + two[cut:]
        assert mixed in (one, two) or TICKETS.replica(mixed) is None


def test_another_secret_reads_nothing() -> None:
    assert Tickets(b"t" * 32).replica(TICKETS.new("cmpl-", "k3fx0q2m")) is None


@pytest.mark.parametrize("id", ["", "cmpl-", "cmpl-xyz", "nope", "cmpl-" + "0" * 32, "cmpl-" + "0" * 51, "é"])
def test_what_is_no_id_leads_nowhere(id: str) -> None:
    assert TICKETS.replica(id) is None


def test_a_name_too_long_to_hide_and_a_short_secret_are_refused() -> None:
    for name in ("", "r" * 33):
        with pytest.raises(ValueError, match="1 to 32 bytes"):
            TICKETS.new("cmpl-", name)
    with pytest.raises(ValueError, match="16 bytes"):
        Tickets(b"short")
