"""Training sees the ids a server would: the prompt as rendered for generation, then the answer and its EOS."""

from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from arm_models.data import Message, PairEncoder, PreferencePair
from arm_models.errors import UserError

Make = Callable[..., PreTrainedTokenizerFast]
QUESTION = (Message("user", "how do I clean the oven?"),)
PAIR = PreferencePair(QUESTION, None, "let it cool", "use bleach")
EOS = 0


def encoder(tokenizer: PreTrainedTokenizerFast, prompt: int = 64, total: int = 128) -> PairEncoder:
    return PairEncoder(tokenizer, EOS, prompt, total)


def test_a_conversation_is_rendered_for_generation(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    pair = encoder(tiny_tokenizer).encode(PAIR)
    served = tiny_tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION[0].content}], add_generation_prompt=True, return_dict=False
    )
    assert pair.prompt.tolist() == served
    assert pair.chosen.tolist() == [*tiny_tokenizer.encode("let it cool", add_special_tokens=False), EOS]
    assert tiny_tokenizer.decode(pair.rejected) == "use bleach<|end|>"


def test_a_text_prompt_is_taken_as_it_is(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    pair = encoder(tiny_tokenizer).encode(PreferencePair(None, "water the", " plants", " sun"))
    assert tiny_tokenizer.decode(pair.prompt) == "water the"
    assert tiny_tokenizer.decode(pair.chosen) == " plants<|end|>"


def test_tokens_never_reach_across_the_prompts_end(make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer()
    word = max(tokenizer.get_vocab(), key=len)
    assert tokenizer.encode(word) == [tokenizer.convert_tokens_to_ids(word)]
    pair = encoder(tokenizer).encode(PreferencePair(None, word[:2], word[2:], "x"))
    assert pair.prompt.tolist() == tokenizer.encode(word[:2])
    assert pair.chosen.tolist() == [*tokenizer.encode(word[2:]), EOS]


def test_without_a_template_a_transcript_stays_text(make_tokenizer: Make) -> None:
    text = "\n\nHuman: how?\n\nAssistant:"
    pair = PreferencePair((Message("user", "how?"),), text, "slowly", "never", joint=" ")
    plain, templated = make_tokenizer(chat_template=None), make_tokenizer()
    assert plain.decode(encoder(plain).encode(pair).prompt) == text
    assert plain.decode(encoder(plain).encode(pair).chosen) == " slowly<|end|>"
    assert templated.decode(encoder(templated).encode(pair).prompt) == "<|user|>how?<|end|><|assistant|>"
    assert templated.decode(encoder(templated).encode(pair).chosen) == "slowly<|end|>"


def test_a_conversation_without_a_template_is_refused(make_tokenizer: Make) -> None:
    with pytest.raises(UserError, match="no chat template; name one with --chat_template_path"):
        encoder(make_tokenizer(chat_template=None)).encode(PAIR)


def test_what_the_template_refuses_is_said(make_tokenizer: Make) -> None:
    strict = make_tokenizer(chat_template="{{ raise_exception('only even turns\nplease') }}")
    with pytest.raises(UserError, match=r"^the chat template refuses a prompt: only even turns$"):
        encoder(strict).encode(PAIR)


def test_long_prompts_lose_their_beginning_and_long_answers_their_end(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    whole = encoder(tiny_tokenizer).encode(PAIR)
    short = encoder(tiny_tokenizer, prompt=5, total=8)
    assert short.notice() is None
    cut = short.encode(PAIR)
    assert cut.prompt.tolist() == whole.prompt.tolist()[-5:]
    assert cut.chosen.tolist() == whole.chosen.tolist()[:3]
    assert short.notice() == (
        "cut 1 prompts to their last 5 tokens and 2 answers to fit 8 tokens, without their EOS"
    )
