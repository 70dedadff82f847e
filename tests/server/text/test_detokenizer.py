"""Streamed text equals the text of all tokens at once, and no character is ever shown half."""

import random
from collections.abc import Callable, Sequence

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from server.text import Detokenizer
from server.text.detokenizer import PATIENCE

TEXTS = (
    "plain words, nothing else",
    "Grüße, naïve café – façade",
    "日本語のテキスト",
    "👩‍👩‍👧‍👦 and 🏳️‍🌈 then 👍🏽!",
    "a real � stays",
    "line\nbreak\tand  two spaces",
    "",
)


def spoken(
    tokens: Sequence[int], decode: Callable[[Sequence[int]], str], hidden: frozenset[int]
) -> list[str]:
    detokenizer = Detokenizer(decode, hidden)
    return [*(detokenizer.push(token) for token in tokens), detokenizer.flush()]


@pytest.fixture(scope="module")
def byte_level(tiny_tokenizer: PreTrainedTokenizerFast) -> Callable[[Sequence[int]], str]:
    backend = tiny_tokenizer.backend_tokenizer
    return lambda tokens: backend.decode(list(tokens), skip_special_tokens=True)


@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_pieces_make_the_text(
    text: str, tiny_tokenizer: PreTrainedTokenizerFast, byte_level: Callable[[Sequence[int]], str]
) -> None:
    tokens = tiny_tokenizer.encode(text, add_special_tokens=False)
    assert len(tokens) >= len(text.encode()) // 4
    pieces = spoken(tokens, byte_level, frozenset())
    assert "".join(pieces) == text
    if "�" not in text:
        assert all("�" not in piece for piece in pieces)


def test_one_byte_per_token_shows_each_character_when_it_is_whole(
    tiny_tokenizer: PreTrainedTokenizerFast, byte_level: Callable[[Sequence[int]], str]
) -> None:
    tokens = tiny_tokenizer.encode("é👍", add_special_tokens=False)
    assert spoken(tokens, byte_level, frozenset()) == ["", "é", "", "", "", "👍", ""]


def test_noise_streams_to_the_same_text_as_decoding_it_whole(
    byte_level: Callable[[Sequence[int]], str],
) -> None:
    rng = random.Random(1)
    for length in [*range(12)] * 20 + [300]:
        tokens = [rng.randrange(5, 300) for _ in range(length)]
        assert "".join(spoken(tokens, byte_level, frozenset())) == byte_level(tokens)


def test_bytes_that_make_no_character_are_shown_in_the_end(
    tiny_tokenizer: PreTrainedTokenizerFast, byte_level: Callable[[Sequence[int]], str]
) -> None:
    start = tiny_tokenizer.encode("é", add_special_tokens=False)[0]
    assert spoken([start], byte_level, frozenset()) == ["", "�"]
    pieces = spoken([start] * (2 * PATIENCE), byte_level, frozenset())
    assert pieces.index("�" * PATIENCE) == PATIENCE - 1
    assert "".join(pieces) == "�" * (2 * PATIENCE)


def test_special_tokens_have_no_text_and_break_nothing(
    tiny_tokenizer: PreTrainedTokenizerFast, byte_level: Callable[[Sequence[int]], str]
) -> None:
    hidden = frozenset(range(5))
    tokens: list[int] = []
    for token in tiny_tokenizer.encode("né👍 end", add_special_tokens=False):
        tokens += [token, 3, 0, 0]
    assert "".join(spoken(tokens, byte_level, hidden)) == "né👍 end"


def test_sentencepiece_spaces_survive_the_borders() -> None:
    words = ["▁a", "▁cat", "s", "▁sat", "▁", "."]
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)} | {word: 256 + i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokens = [256, 257, 258, *"é👍".encode(), 259, 260, 260, 256, *"日".encode(), 261] * 5
    pieces = spoken(tokens, lambda ids: tokenizer.decode(list(ids)), frozenset())
    assert "".join(pieces) == tokenizer.decode(tokens)
    assert "".join(pieces).startswith("a catsé👍 sat   a日.")
    assert all("�" not in piece for piece in pieces)


def sentencepiece() -> Tokenizer:
    words = ["▁a", "▁cat", "s", "▁sat"]
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)} | {word: 256 + i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def test_an_answer_that_goes_on_with_a_text_keeps_the_space_between() -> None:
    tokenizer = sentencepiece()

    def pieces(before: list[int], hidden: frozenset[int] = frozenset()) -> list[str]:
        detokenizer = Detokenizer(lambda ids: tokenizer.decode(list(ids)), hidden, before)
        return [detokenizer.push(259), detokenizer.push(257), detokenizer.flush()]

    assert pieces([]) == ["sat", " cat", ""]
    assert pieces([256, 257]) == [" sat", " cat", ""]
    assert pieces([256, 257] * 50) == [" sat", " cat", ""]
    assert pieces([256, 65], frozenset({65})) == [" sat", " cat", ""]
    assert pieces([65], frozenset({65})) == ["sat", " cat", ""]


def test_a_text_that_ends_inside_a_character_swallows_nothing_of_the_answer(
    tiny_tokenizer: PreTrainedTokenizerFast, byte_level: Callable[[Sequence[int]], str]
) -> None:
    start, rest = tiny_tokenizer.encode("é", add_special_tokens=False)
    detokenizer = Detokenizer(byte_level, frozenset(), [70, start])
    said = detokenizer.push(rest) + detokenizer.push(70) + detokenizer.flush()
    assert said == byte_level([rest, 70])


def test_it_waits_while_a_character_is_incomplete(
    tiny_tokenizer: PreTrainedTokenizerFast, byte_level: Callable[[Sequence[int]], str]
) -> None:
    start, rest = tiny_tokenizer.encode("é", add_special_tokens=False)
    detokenizer = Detokenizer(byte_level, frozenset({0}))
    seen = []
    for token in (70, start, 0, rest, 0):
        detokenizer.push(token)
        seen.append(detokenizer.waiting)
    assert seen == [False, True, True, False, False]


def test_cost_per_token_does_not_grow_with_the_answer(byte_level: Callable[[Sequence[int]], str]) -> None:
    seen: list[int] = []

    def decode(tokens: Sequence[int]) -> str:
        seen.append(len(tokens))
        return byte_level(tokens)

    spoken([70] * 500, decode, frozenset())
    assert max(seen) < 20
