from collections.abc import Callable

import pytest

from server.structured import Vocabulary

MakeVocabulary = Callable[..., Vocabulary]


def test_text_is_split_at_the_tokens_that_are_marks(make_vocabulary: MakeVocabulary) -> None:
    vocabulary = make_vocabulary(shown=["<call>"], hidden=["<call>>", "[X]"])
    assert list(vocabulary.split("a <call> b[X]<call>>")) == ["a ", 300, " b", 302, 301]
    assert list(vocabulary.split("plain [text]")) == ["plain [text]"]
    assert list(vocabulary.split("")) == []


def test_marks_that_are_text_are_told_from_hidden_ones(make_vocabulary: MakeVocabulary) -> None:
    assert make_vocabulary(shown=["<think>"], hidden=["<secret>"]).shown_marks == (300,)


def test_the_ends_have_a_text(vocabulary: Vocabulary) -> None:
    assert vocabulary.end_texts == ("<|end|>",)


def test_a_vocabulary_without_an_end_is_refused_when_it_is_used() -> None:
    with pytest.raises(ValueError, match="ends"):
        _ = Vocabulary(lambda: "{}", 10, frozenset(), {}).tokens
