"""A soak's books: what is a complaint, told of answers made up here."""

import random

import pytest

from tests.faults.ledger import Ledger
from tests.faults.readers import READERS, Heard, clog, give_up, leave
from tests.faults.traffic import Asked

GO_EARLY = {kind for kind, reader in READERS.items() if reader in (leave, give_up, clog)}


@pytest.mark.parametrize("kind", sorted(set(READERS) - GO_EARLY - {"bad"}))
def test_who_reads_to_the_end_is_told_that_it_is_there(kind: str) -> None:
    ledger = Ledger(9, random.Random(0))
    ledger.take(Asked(kind, "/v1/chat/completions"), Heard(200, whole=True))
    assert not ledger.broken
    ledger.take(Asked(kind, "/v1/chat/completions"), Heard(200))
    (complaint,) = ledger.broken
    assert "a stream without [DONE]" in complaint


@pytest.mark.parametrize("kind", sorted(GO_EARLY))
def test_who_goes_early_need_not_hear_of_the_end(kind: str) -> None:
    ledger = Ledger(9, random.Random(0))
    ledger.take(Asked(kind, "/v1/chat/completions"), Heard(200))
    assert not ledger.broken
