"""Every token stands for the bytes that it adds to a text, whichever way its vocabulary writes them."""

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from server.text import TokenBytes


@pytest.mark.parametrize(
    "text", ["the kettle is hot", "Grüße – 日本語 👍🏽", "line\nbreak\ttab \x00\x7f\xad"]
)
def test_the_bytes_of_a_texts_tokens_are_the_text(text: str, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    token_bytes = TokenBytes(tiny_tokenizer)
    tokens = tiny_tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(token_bytes.of(token) for token in tokens) == text.encode()


def test_every_byte_is_a_token_of_its_own(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    token_bytes = TokenBytes(tiny_tokenizer)
    single = {token_bytes.of(token) for token in range(len(tiny_tokenizer))}
    assert {bytes([byte]) for byte in range(256)} <= single


def test_part_of_a_character_is_shown_as_a_replacement(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    token_bytes = TokenBytes(tiny_tokenizer)
    start, rest = tiny_tokenizer.encode("é", add_special_tokens=False)
    assert [token_bytes.of(start), token_bytes.of(rest)] == [b"\xc3", b"\xa9"]
    assert token_bytes.text(start) == token_bytes.text(rest) == "\ufffd"


def test_a_special_token_is_as_it_is_spelled(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    assert TokenBytes(tiny_tokenizer).of(0) == b"<|end|>"


def test_an_added_word_is_not_read_as_bytes(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["Ġé word"])
    assert TokenBytes(tokenizer).of(len(tokenizer) - 1) == "Ġé word".encode()


def test_an_id_the_tokenizer_does_not_know_has_no_bytes(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    token_bytes = TokenBytes(tiny_tokenizer)
    assert token_bytes.of(100_000) == b""
    assert token_bytes.text(100_000) == ""


def test_sentencepiece_writes_spaces_and_bytes_its_own_way() -> None:
    words = ["▁cat", "s"]
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)} | {word: 256 + i for i, word in enumerate(words)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    token_bytes = TokenBytes(PreTrainedTokenizerFast(tokenizer_object=backend))
    assert [token_bytes.of(token) for token in (256, 257, 0xC3)] == [b" cat", b"s", b"\xc3"]


def test_metaspace_is_a_space() -> None:
    backend = Tokenizer(models.BPE(vocab={"▁cat": 0, "s": 1}, merges=[]))
    backend.decoder = decoders.Metaspace()
    token_bytes = TokenBytes(PreTrainedTokenizerFast(tokenizer_object=backend))
    assert [token_bytes.of(token) for token in (0, 1)] == [b" cat", b"s"]


def test_without_a_decoder_tokens_are_what_they_are() -> None:
    backend = Tokenizer(models.WordLevel({"w0": 0, "w1": 1}, unk_token="w1"))
    assert TokenBytes(PreTrainedTokenizerFast(tokenizer_object=backend)).of(1) == b"w1"
