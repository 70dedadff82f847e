"""What is kept, what goes first, and what is found again. The engine's own caches judge it in test_lockstep.py."""

import pytest

from server.simulation.limits import Limits
from server.simulation.memory import Memory
from server.simulation.request import Prompt

CHUNK = 16


def memory(blocks: int = 100, share: float = 0.5) -> Memory:
    return Memory(Limits(64 * blocks, prefill_chunk=CHUNK, prefix_share=share))


def prompt(session: int, tokens: int, system: int = 0, system_tokens: int = 40) -> Prompt:
    return Prompt(system, system_tokens, session, tokens)


def test_nothing_is_found_where_nothing_is_kept() -> None:
    assert memory().find(prompt(1, 100)) == 0


def test_a_later_turn_finds_what_its_session_had_in_whole_chunks() -> None:
    kept = memory()
    kept.keep(prompt(1, 90))
    assert kept.find(prompt(1, 300)) == 80


def test_at_least_the_last_token_is_left() -> None:
    kept = memory()
    kept.keep(prompt(1, 96))
    assert kept.find(prompt(1, 96)) == 80


def test_another_session_finds_the_chunks_of_the_system_it_shares() -> None:
    kept = memory()
    kept.keep(prompt(1, 90))
    assert kept.find(prompt(2, 300)) == 32  # of 40 tokens, two chunks of 16
    assert kept.find(prompt(3, 300, system=7)) == 0


def test_what_a_longer_prompt_holds_too_is_dropped() -> None:
    kept = memory()
    for tokens in (45, 90, 200):
        kept.keep(prompt(1, tokens))
    assert kept.kept == 1
    assert kept.find(prompt(1, 500)) == 192


def test_no_more_is_kept_than_its_share_and_the_oldest_goes() -> None:
    kept = memory(blocks=20, share=0.5)
    for session in range(4):
        kept.keep(prompt(session, 192, system=session))  # three blocks each
    assert kept.kept_blocks == 9
    assert [kept.find(prompt(session, 300, system=session)) for session in range(4)] == [0, 192, 192, 192]


def test_what_was_of_use_stays_longer() -> None:
    kept = memory(blocks=20, share=0.5)
    for session in range(3):
        kept.keep(prompt(session, 192, system=session))
    assert kept.find(prompt(0, 300, system=0)) == 192
    kept.keep(prompt(3, 192, system=3))
    assert kept.find(prompt(0, 300, system=0)) == 192
    assert kept.find(prompt(1, 300, system=1)) == 0


def test_answers_under_way_have_precedence() -> None:
    kept = memory(blocks=10, share=0.5)
    kept.keep(prompt(1, 192))
    assert kept.reserve(0, 64 * 8) == 8
    assert kept.kept_blocks == 0
    assert kept.reserve(0, 64 * 3) is None
    assert kept.free == 2
    kept.release(8)
    assert kept.free == 10


def test_a_row_that_is_long_enough_stays_as_it_is() -> None:
    kept = memory(blocks=10)
    assert kept.reserve(4, 200) == 4
    assert kept.live == 0


def test_a_prompt_larger_than_the_share_is_not_kept() -> None:
    kept = memory(blocks=20, share=0.1)
    kept.keep(prompt(1, 300))
    assert kept.kept == 0


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_hits_of_sessions_that_go_anywhere_are_what_enumeration_says(replicas: int) -> None:
    """A session's second turn finds its first where it was before: always where it stays, with probability 1/n anywhere."""
    hits = total = 0
    for first in range(replicas):
        for second in range(replicas):
            memories = [memory() for _ in range(replicas)]
            memories[first].keep(prompt(1, 96, system_tokens=0))
            hits += memories[second].find(prompt(1, 200, system_tokens=0)) > 0
            total += 1
    assert hits / total == 1 / replicas
