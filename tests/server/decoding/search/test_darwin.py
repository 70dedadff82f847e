"""DARWIN's step list, on a model and a reward that the tests write."""

from typing import Any

import pytest

from server.decoding.search import Darwin
from server.decoding.search.rewriting import read_rewriting, rewriting_chat
from server.engine import SequenceRequest
from tests.server.decoding.search.scripted import ScriptedEngine, text_of

ASKED = "Below is an instruction"


def prompt_of(request: SequenceRequest) -> str:
    return text_of(request.prompts["base"])


def speaker(answer: str = "1) A\n2) B\n3) C.") -> Any:
    """Asked for other words it writes ``answer``; under "A>" it says a's, and so on; under the original "q" and stops."""

    def model(request: SequenceRequest, text: str) -> str:
        prompt = prompt_of(request)
        if prompt.startswith(ASKED):
            return answer[len(text)]
        return "q."[len(text) :][:1] or "q" if prompt == "q>" else prompt[0].lower()

    return model


def likes_b(text: str) -> float:
    return float(text.count("b") - text.count("c"))


SMALL = {"chat": "q", "iterations": 1, "mutations": 3, "m": 2, "keep": 1, "max_tokens": 6}


def drawn(engine: ScriptedEngine) -> list[tuple[str, str]]:
    """(prompt, begun) of what was drawn, a request for other words as "?"."""
    return [("?" if prompt.startswith(ASKED) else prompt, begun) for prompt, begun in engine.drawn()]


def test_the_steps_in_order(find: Any) -> None:
    engine = ScriptedEngine(speaker(), likes_b)
    answer = find(Darwin(), engine, **SMALL)
    assert drawn(engine) == [
        ("q>", ""),  # the instruction is answered once
        ("?", ""),  # and rewritten
        *(("A>", ""), ("B>", ""), ("C>", "")),  # one beam each
        *(("A>", "bb"), ("B>", "bb"), ("C>", "bb")),  # after m tokens the best has overwritten the others
        *(("A>", "bbbb"), ("B>", "bbbb"), ("C>", "bbbb")),
    ]
    assert text_of(answer.text.tokens) == "bbbbbb"
    assert (answer.text.finish_reason, answer.score) == ("length", 6.0)
    assert not engine.held


def test_partial_texts_are_scored_behind_the_original_instruction(find: Any) -> None:
    engine = ScriptedEngine(speaker(), likes_b)
    find(Darwin(), engine, **SMALL)
    scores = [one for one in engine.asked if one.scores]
    assert {text_of(one.prompts["judge"]) for one in scores} == {"q>"}
    assert engine.scored() == ["q.", "aa", "bb", "cc", "bbaa", "bbbb", "bbcc", "bbbbaa", "bbbbbb", "bbbbcc"]


def test_the_first_answer_may_be_the_best_of_all(find: Any) -> None:
    engine = ScriptedEngine(speaker(), lambda text: 9.0 if text == "q." else likes_b(text))
    answer = find(Darwin(), engine, **SMALL)
    assert (text_of(answer.text.tokens), answer.text.finish_reason) == ("q.", "stop")


def test_a_finished_beam_is_not_overwritten_and_may_overwrite(find: Any) -> None:
    def model(request: SequenceRequest, text: str) -> str:
        told = speaker()(request, text)
        return "." if (told, text) in (("b", "b"), ("a", "a")) else str(told)

    engine = ScriptedEngine(model, likes_b)
    answer = find(Darwin(), engine, **SMALL)
    # A and B end at once; C, which goes on, becomes a copy of B, which is over.
    assert drawn(engine)[2:] == [("A>", ""), ("B>", ""), ("C>", "")]
    assert text_of(answer.text.tokens) == "b."


def test_a_finished_beam_keeps_its_text_whatever_it_scores(find: Any) -> None:
    def model(request: SequenceRequest, text: str) -> str:
        told = str(speaker()(request, text))
        return "." if (told, text) == ("a", "a") else told

    engine = ScriptedEngine(model, likes_b)
    find(Darwin(), engine, **SMALL)
    # A has ended below the best: it is neither overwritten nor drawn or scored again.
    assert [begun for prompt, begun in drawn(engine) if prompt == "A>"] == [""]
    assert engine.scored().count("a.") == 1


def test_every_beam_is_drawn_with_a_seed_of_its_own(find: Any) -> None:
    engine = ScriptedEngine(speaker(), likes_b)
    find(Darwin(), engine, **SMALL, seed=5)
    seeds: dict[str, set[int]] = {}
    for one in engine.asked:
        if not one.scores:
            seeds.setdefault(prompt_of(one)[:2], set()).add(one.sampling.seed)
    # The first answer has the search's own; a beam keeps its seed from part to part.
    assert seeds["q>"] == {5}
    assert all(len(own) == 1 for own in seeds.values())
    assert len(set().union(*seeds.values())) == 5


@pytest.mark.parametrize("written", ["no list at all.", "1) A\n2) B.", "."])
def test_a_list_that_cannot_be_read_becomes_copies(find: Any, written: str) -> None:
    engine = ScriptedEngine(speaker(written), likes_b)
    find(Darwin(), engine, **SMALL)
    assert drawn(engine)[2:5] == [("q>", "")] * 3


def test_an_instruction_that_leaves_no_room_becomes_a_copy(find: Any) -> None:
    long = "L" * 300
    engine = ScriptedEngine(speaker(f"1) A\n2) {long}\n3) C."), likes_b)
    room = len(rewriting_chat("q", 3)[0]["content"]) + 330
    find(Darwin(), engine, **SMALL, max_context={"base": room})
    assert [prompt for prompt, _ in drawn(engine)[2:5]] == ["A>", f"{long}>", "C>"]
    engine = ScriptedEngine(speaker(f"1) A\n2) {long}\n3) C."), likes_b)
    find(Darwin(), engine, **{**SMALL, "max_tokens": room - 200}, max_context={"base": room})
    assert [prompt for prompt, _ in drawn(engine)[2:5]] == ["A>", "q>", "C>"]


def test_what_is_most_often_among_the_best_joins_the_archive(find: Any) -> None:
    taken = set()
    for seed in range(12):
        engine = ScriptedEngine(speaker(), likes_b)
        find(Darwin(), engine, **{**SMALL, "iterations": 2}, archive_add=1, seed=seed)
        second = [prompt_of(one) for one in engine.asked if prompt_of(one).startswith(ASKED)][1]
        taken.add(second.rstrip(">").rpartition("Instruction: ")[2])
    assert taken == {"q", "B"}


def test_without_an_archive_every_iteration_takes_the_original(find: Any) -> None:
    for seed in range(4):
        engine = ScriptedEngine(speaker(), likes_b)
        find(Darwin(), engine, **{**SMALL, "iterations": 3}, archive_add=0, seed=seed)
        asked = [prompt_of(one) for one in engine.asked if prompt_of(one).startswith(ASKED)]
        assert len(asked) == 3
        assert {one.rpartition("Instruction: ")[2] for one in asked} == {"q>"}


def test_overwritten_beams_are_random_copies_of_the_best_ones_by_the_seed(find: Any) -> None:
    def begun(seed: int) -> list[str]:
        engine = ScriptedEngine(speaker("1) A\n2) B\n3) C\n4) D\n5) E."), lambda text: -float(ord(text[0])))
        find(Darwin(), engine, **{**SMALL, "mutations": 5, "keep": 2, "max_tokens": 4}, seed=seed)
        return [text for _, text in drawn(engine)[7:]]

    assert begun(1) == begun(1)
    copies = [begun(seed) for seed in range(8)]
    assert {tuple(one[:2]) for one in copies} == {("aa", "bb")}
    assert {text for one in copies for text in one[2:]} == {"aa", "bb"}


def test_one_beam_with_neither_rewriting_nor_overwriting_is_one_plain_draw(find: Any) -> None:
    engine = ScriptedEngine(speaker(), likes_b)
    alone = {"mutations": 1, "mutate": False, "replace": False}
    answer = find(Darwin(), engine, **{**SMALL, **alone}, seed=5)
    (request,) = [one for one in engine.asked if not one.scores]
    assert (request.sampling.seed, request.sampling.max_tokens, request.begun) == (5, 6, ())
    assert text_of(answer.text.tokens) == "q."


def test_a_beam_goes_on_from_contexts_that_are_held(find: Any) -> None:
    engine = ScriptedEngine(speaker(), likes_b)
    find(Darwin(), engine, **SMALL)
    grown = {(prompt_of(one), text_of(one.begun)): one for one in engine.asked if not one.scores}
    assert grown["B>", "bb"].parent == grown["B>", ""].id
    # Overwritten, it has its own prompt to go on from.
    assert grown["A>", "bb"].parent == grown["A>", ""].id


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1. one\n2. two", ["one", "two"]),
        ("Sure!\n\n 1) one\n\n2) two\n3) three", ["one", "two"]),
        ("1. one", None),
        ("- one\n- two", None),
        ("1.\n2. two", None),
    ],
)
def test_numbered_lists_are_read(text: str, expected: list[str] | None) -> None:
    assert read_rewriting(text, 2) == expected
