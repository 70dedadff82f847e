"""A token goes out with the piece that completes its text: neither before it nor twice, and none is lost."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from server.api.choice import Choice, Ending, Piece, Token
from server.engine import TokenLogprobs, TokenOutput, TokenReport
from server.text import ChatTokenizer

END = 0


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer: PreTrainedTokenizerFast) -> ChatTokenizer:
    return ChatTokenizer({"base": tiny_tokenizer}, {"base": 256})


def outputs(tokens: Sequence[int], last: str) -> list[TokenOutput]:
    reasons = [None] * (len(tokens) - 1) + [last]
    return [
        TokenOutput("x/0", index, token, reason, None, TokenLogprobs(-float(index), ()))
        for index, (token, reason) in enumerate(zip(tokens, reasons, strict=True))
    ]


def said(
    tokenizer: ChatTokenizer, tokens: Sequence[int], ending: Ending, last: str = "length"
) -> list[Piece]:
    choice = Choice("x/0", 3, tokenizer.detokenizer(), ending)
    pieces = [piece for output in outputs(tokens, last) for piece in choice.push(output)]
    assert all(piece.index == 3 for piece in pieces)
    return pieces


def text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


@given(
    tokens=st.lists(st.integers(0, 299), min_size=1, max_size=30),
    stops=st.lists(st.text("the kol", min_size=1, max_size=3), max_size=3),
    shown=st.booleans(),
    min_tokens=st.integers(0, 8),
)
@settings(max_examples=300, deadline=None)
def test_every_token_goes_out_once_in_order_and_not_before_its_text(
    tokenizer: ChatTokenizer, tokens: list[int], stops: list[str], shown: bool, min_tokens: int
) -> None:
    pieces = said(tokenizer, tokens, Ending(tuple(stops), frozenset(), min_tokens, shown))
    sent = [token for piece in pieces for token in piece.tokens]
    assert [token.id for token in sent] == tokens[: len(sent)]
    assert [token.logprobs.logprob for token in sent if token.logprobs] == [
        -float(i) for i in range(len(sent))
    ]
    assert [piece.finish_reason is not None for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    if pieces[-1].finish_reason == "length":
        assert len(sent) == len(tokens)
        assert text(pieces) == tokenizer.decode(tokens)
    else:
        assert len(sent) >= min_tokens
    out, known = "", 0
    for piece in pieces[:-1]:
        assert piece.text
        out += piece.text
        known += len(piece.tokens)
        assert out.startswith(tokenizer.decode(tokens[:known]))
    offsets = [token.offset for token in sent]
    assert offsets == sorted(offsets)
    assert all(offset <= len(text(pieces)) for offset in offsets)


def test_tokens_of_one_character_go_out_together(
    tokenizer: ChatTokenizer, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    tokens = tiny_tokenizer.encode("é👍", add_special_tokens=False)
    pieces = said(tokenizer, tokens, Ending())
    assert [(piece.text, len(piece.tokens)) for piece in pieces] == [("é", 2), ("👍", 4), ("", 0)]
    assert [token.offset for piece in pieces for token in piece.tokens] == [0, 0, 1, 1, 1, 1]


def test_tokens_held_back_for_a_stop_string_go_out_with_their_text(
    tokenizer: ChatTokenizer, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    tokens = tiny_tokenizer.encode("xyzQ", add_special_tokens=False)
    assert len(tokens) == 4
    pieces = said(tokenizer, tokens, Ending(("xyzz",)))
    assert [(piece.text, len(piece.tokens)) for piece in pieces] == [("xyzQ", 4), ("", 0)]
    cut = said(tokenizer, tokens, Ending(("yz",)))
    assert [(piece.text, [token.id for token in piece.tokens]) for piece in cut] == [
        ("x", tokens[:1]),
        ("", tokens[1:3]),
    ]
    assert [token.offset for token in cut[-1].tokens] == [1, 1]
    assert cut[-1].finish_reason == "stop"


def test_a_stop_string_counts_only_from_min_tokens_on(
    tokenizer: ChatTokenizer, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    tokens = tiny_tokenizer.encode("QZQZQZ", add_special_tokens=False)
    assert len(tokens) == 6
    for least, shown in [(0, "Q"), (1, "Q"), (2, "Q"), (3, "QZQ"), (4, "QZQ"), (5, "QZQZQ"), (6, "QZQZQ")]:
        assert text(said(tokenizer, tokens, Ending(("Z",), min_tokens=least))) == shown


def test_the_stop_string_is_shown_when_asked_for(
    tokenizer: ChatTokenizer, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    tokens = tiny_tokenizer.encode("one END two", add_special_tokens=False)
    assert text(said(tokenizer, tokens, Ending(("END",), shown=True))) == "one END"


def test_the_token_that_stopped_the_engine_is_hidden_but_counts(tokenizer: ChatTokenizer) -> None:
    stop = frozenset({71})
    hidden = said(tokenizer, [70, 71], Ending((), stop), "stop")
    assert text(hidden) == tokenizer.decode([70])
    assert [token.id for piece in hidden for token in piece.tokens] == [70, 71]
    assert text(said(tokenizer, [70, 71], Ending((), stop, shown=True), "stop")) == tokenizer.decode([70, 71])


def test_a_last_token_that_a_grammar_ended_with_is_text(tokenizer: ChatTokenizer) -> None:
    assert text(said(tokenizer, [70, 71], Ending((), frozenset({END})), "stop")) == tokenizer.decode([70, 71])


def test_what_comes_after_the_end_is_ignored(tokenizer: ChatTokenizer) -> None:
    choice = Choice("x/0", 0, tokenizer.detokenizer(), Ending())
    assert choice.finish("stop")[-1].finish_reason == "stop"
    assert choice.push(TokenOutput("x/0", 0, 70)) == []
    assert choice.finish("length") == []
    assert (choice.tokens, choice.finish_reason) == (0, "stop")


def test_a_choice_without_tokens_has_its_prompts_logprobs(tokenizer: ChatTokenizer) -> None:
    choice = Choice("x/0", 0, tokenizer.detokenizer(), Ending())
    read = (None, TokenLogprobs(-1.0, ()))
    (piece,) = choice.push(TokenOutput("x/0", 0, -1, "length", prompt_logprobs=read))
    assert piece == Piece(0, "", (), "length")
    assert choice.prompt_logprobs == read
    assert choice.tokens == 0


def test_reports_add_up(tokenizer: ChatTokenizer) -> None:
    choice = Choice("x/0", 0, tokenizer.detokenizer(), Ending())

    def report(**changes: Any) -> TokenReport:
        fields = {"kl": 0.5, "base_logprob": -1.0, "base_top": 1, "mix_top": 1, "rewards": {"a": -2.0}}
        return TokenReport(**{**fields, **changes})

    choice.push(TokenOutput("x/0", 0, 70, report=report()))
    choice.push(TokenOutput("x/0", 1, 70, report=report(mix_top=2, rewards={"b": float("-inf")})))
    tally = choice.tally
    assert (tally.tokens, tally.kl, tally.flips, tally.base_logprob) == (2, 1.0, 1, -2.0)
    assert tally.rewards == {"a": -2.0, "b": -9999.0}


def test_a_piece_is_as_large_as_what_it_tells() -> None:
    plain = Piece(0, "abc", (Token(5, 0, None, None),))
    assert Piece(0, "abc" + "d" * 1000, plain.tokens).size == plain.size + 1000
    told = Token(5, 0, TokenLogprobs(-1.0, tuple((token, -2.0) for token in range(20))), None)
    assert Piece(0, "abc", (told,)).size >= plain.size + 20 * 64
    assert Piece(0, "", (), "stop").size > 0
