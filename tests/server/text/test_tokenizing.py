"""Every member reads the chat through its own template; members that read alike share the tokens."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from server.errors import ContextLengthExceeded, InvalidRequest
from server.text import ChatTokenizer, TokenizerThread

Make = Callable[..., PreTrainedTokenizerFast]
CHAT = [{"role": "user", "content": "water the plants"}]
BOS = "<|system|>{% for message in messages %}{{ message.content }}{% endfor %}"


def chat_tokenizer(limit: int = 256, **tokenizers: PreTrainedTokenizerFast) -> ChatTokenizer:
    return ChatTokenizer(tokenizers, dict.fromkeys(tokenizers, limit))


def test_members_with_one_template_share_the_tokens(make_tokenizer: Make) -> None:
    prompts = chat_tokenizer(base=make_tokenizer(), helpful=make_tokenizer()).prompts(CHAT)
    assert prompts["base"] is prompts["helpful"]


def test_a_member_with_its_own_template_reads_its_own_tokens(make_tokenizer: Make) -> None:
    other = make_tokenizer()
    other.chat_template = "Rate: {{ messages[0].content }}"
    prompts = chat_tokenizer(base=make_tokenizer(), helpful=other).prompts(CHAT)
    assert other.decode(prompts["helpful"]) == "Rate: water the plants"
    assert other.decode(prompts["base"]) == "<|user|>water the plants<|end|><|assistant|>"


def test_a_reward_without_a_template_reads_the_bases(make_tokenizer: Make) -> None:
    prompts = chat_tokenizer(base=make_tokenizer(), helpful=make_tokenizer(chat_template=None)).prompts(CHAT)
    assert prompts["helpful"] == prompts["base"]


def test_a_base_without_a_template_is_said_so(make_tokenizer: Make) -> None:
    with pytest.raises(InvalidRequest, match="no chat template"):
        chat_tokenizer(base=make_tokenizer(chat_template=None)).prompts(CHAT)


def test_special_tokens_are_not_added_twice(make_tokenizer: Make) -> None:
    from tokenizers.processors import TemplateProcessing

    base = make_tokenizer(chat_template=BOS)
    base.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", 2)]
    )
    tokens = chat_tokenizer(base=base).prompts(CHAT)["base"]
    assert tokens[0] == 2
    assert tokens.count(2) == 1


def test_truncation_saved_with_a_tokenizer_cuts_no_prompt(make_tokenizer: Make) -> None:
    base = make_tokenizer()
    base.backend_tokenizer.enable_truncation(4)
    assert len(chat_tokenizer(base=base).prompts(CHAT)["base"]) > 4


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('only users may speak') }}", "only users may speak"),
        ("{{ raise_exception('x' * 5000) }}", "xxx…"),
        ("{{ messages.missing.field }}", "refuses these messages"),
        ("{{ 1 / 0 }}", "it failed on them"),
    ],
)
def test_a_template_that_refuses_is_the_clients_error(make_tokenizer: Make, template: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat_tokenizer(base=make_tokenizer(chat_template=template)).prompts(CHAT)
    assert said in caught.value.message
    assert len(caught.value.message) < 300
    assert caught.value.param == "messages"


def test_text_that_cannot_fit_is_refused_before_it_is_tokenized(make_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer(base=make_tokenizer())

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("tokenized")

    for reader, _ in tokenizer._readers:
        reader.encode = never  # type: ignore[method-assign]
    with pytest.raises(ContextLengthExceeded):
        tokenizer.prompts([{"role": "user", "content": "x" * 100_000}])


def test_all_work_runs_in_one_thread() -> None:
    async def names() -> set[str]:
        thread = TokenizerThread()
        found = await asyncio.gather(
            *(thread.run(lambda: threading.current_thread().name) for _ in range(20))
        )
        thread.stop()
        return set(found)

    assert len(asyncio.run(names())) == 1
