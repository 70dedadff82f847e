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


def test_cost_per_token_does_not_grow_with_the_answer(byte_level: Callable[[Sequence[int]], str]) -> None:
    seen: list[int] = []

    def decode(tokens: Sequence[int]) -> str:
        seen.append(len(tokens))
        return byte_level(tokens)

    spoken([70] * 500, decode, frozenset())
    assert max(seen) < 20
