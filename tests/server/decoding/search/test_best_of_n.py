"""Best-of-N: draw N, score N, keep the best."""

from typing import Any

import pytest

from server.decoding.search import BestOfN, SearchFailed
from server.engine import SequenceRequest
from tests.server.decoding.search.scripted import ScriptedEngine, text_of


def spoken(request: SequenceRequest, text: str) -> str:
    """Candidate i says "<i>." of its number i, which its seed's order gives."""
    number = int(request.id.split("/")[1])
    return f"{number}."[len(text)]


def test_the_candidate_with_the_highest_score_wins(find: Any) -> None:
    engine = ScriptedEngine(spoken, lambda text: {"0.": 1.0, "1.": 7.0, "2.": 3.0}[text])
    answer = find(BestOfN(), engine, n_candidates=3)
    assert text_of(answer.text.tokens) == "1."
    assert (answer.text.finish_reason, answer.score) == ("stop", 7.0)


def test_of_equal_scores_the_first_wins(find: Any) -> None:
    engine = ScriptedEngine(spoken, lambda text: 5.0 if text in ("1.", "2.") else 0.0)
    assert text_of(find(BestOfN(), engine, n_candidates=4).text.tokens) == "1."


def test_the_first_candidate_has_the_requests_seed_and_the_others_seeds_of_their_own(find: Any) -> None:
    engine = ScriptedEngine(spoken, len)
    find(BestOfN(), engine, n_candidates=3, seed=11)
    seeds = [one.sampling.seed for one in engine.asked if not one.scores]
    assert seeds[0] == 11
    assert len(set(seeds)) == 3


def test_cost_counts_every_candidate_and_nothing_stays_held(find: Any) -> None:
    engine = ScriptedEngine(spoken, len)
    answer = find(BestOfN(), engine, n_candidates=3)
    assert (answer.cost.generated_tokens, answer.cost.scored_tokens, answer.cost.engine_requests) == (6, 6, 6)
    assert not engine.held
    assert not engine.running


def test_one_text_is_scored_first_and_the_others_share_what_it_has_read(find: Any) -> None:
    engine = ScriptedEngine(spoken, len)
    find(BestOfN(), engine, n_candidates=3)
    scores = [one for one in engine.asked if one.scores]
    assert [one.parent for one in scores] == [None, scores[0].id, scores[0].id]


def test_a_stop_string_ends_a_candidate_where_it_is_complete(find: Any) -> None:
    def watch() -> Any:
        seen: list[int] = []

        def stopped(token: int) -> bool:
            seen.append(token)
            return text_of(seen).endswith("bc")

        return stopped

    engine = ScriptedEngine(lambda _, text: "abcdefgh"[len(text)], len)
    answer = find(BestOfN(), engine, n_candidates=1, watch=watch)
    assert text_of(answer.text.tokens) == "abc"
    assert answer.text.finish_reason == "stop"
    assert engine.aborted == ["s/0"]
    assert not engine.held


def test_a_search_that_fails_holds_nothing_and_runs_nothing(find: Any) -> None:
    def broken(text: str) -> float:
        raise RuntimeError(text)

    engine = ScriptedEngine(spoken, broken)
    with pytest.raises(RuntimeError):
        find(BestOfN(), engine, n_candidates=3)
    assert not engine.held
    assert not engine.running


def test_an_engine_that_cannot_go_on_fails_the_search(find: Any) -> None:
    def silent(*_: Any) -> str:
        return engine.fail("it overflowed")

    engine = ScriptedEngine(silent, len)
    with pytest.raises(SearchFailed, match="it overflowed"):
        find(BestOfN(), engine, n_candidates=2)
    assert not engine.running
