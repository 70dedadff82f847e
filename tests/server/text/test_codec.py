"""Text that is no chat: ids and back, special tokens included."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from server.text.codec import Codec

Make = Callable[..., PreTrainedTokenizerFast]


@pytest.fixture(scope="module")
def codec(tiny_tokenizer: PreTrainedTokenizerFast) -> Codec:
    return Codec(tiny_tokenizer)


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_any_text_comes_back_as_it_went(codec: Codec, text: str) -> None:
    assert codec.decode(codec.encode(text, add_special_tokens=True)) == text


def test_special_tokens_are_read_and_written(codec: Codec) -> None:
    tokens = codec.encode("<|user|>hi<|end|>", add_special_tokens=False)
    assert (tokens[0], tokens[-1]) == (3, 0)
    assert codec.decode(tokens) == "<|user|>hi<|end|>"


def test_tokens_that_the_tokenizer_puts_around_a_text_come_only_when_asked_for(make_tokenizer: Make) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", 2)]
    )
    codec = Codec(tokenizer)
    plain = codec.encode("hi", add_special_tokens=False)
    assert codec.encode("hi", add_special_tokens=True) == (2, *plain)


def test_entries_are_the_vocabularys(codec: Codec) -> None:
    tokens = codec.encode(" the é", add_special_tokens=False)
    assert "".join(codec.entries(tokens)) == "ĠtheĠÃ©"
    assert codec.entries([10**9]) == ("",)


def test_ids_beyond_the_tokenizer_have_no_text(codec: Codec) -> None:
    assert codec.decode([3, 10**9, 0]) == "<|user|><|end|>"


def test_the_info_spells_special_tokens(make_tokenizer: Make) -> None:
    info = Codec(make_tokenizer(chat_template="{{ messages }}")).info
    assert (info.bos_token, info.eos_token, info.pad_token) == (None, "<|end|>", "<|pad|>")
    assert info.additional_special_tokens == ("<|system|>", "<|user|>", "<|assistant|>")
    assert info.chat_template == "{{ messages }}"


def test_of_several_templates_the_default_is_told(make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = {"default": "a", "tools": "b"}
    assert Codec(tokenizer).info.chat_template == "a"
