"""Every member reads the chat through its own template; members that read alike share the tokens."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from server.errors import ContextLengthExceeded, InvalidRequest, QueueFull
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


def test_the_last_message_can_be_gone_on_with(make_tokenizer: Make) -> None:
    other = make_tokenizer()
    other.chat_template = "{% for message in messages %}({{ message.content }}){% endfor %}"
    chat = [*CHAT, {"role": "assistant", "content": "First, le"}]
    tokenizer = chat_tokenizer(base=make_tokenizer(), helpful=other)
    prompts = tokenizer.prompts(chat, continue_final_message=True)
    shown = {name: other.decode(tokens) for name, tokens in prompts.items()}
    assert shown["base"] == "<|user|>water the plants<|end|><|assistant|>First, le"
    assert shown["helpful"] == "(water the plants)(First, le"


@pytest.mark.parametrize("content", ["", "e", "end", " space ", "CONTINUE"])
def test_going_on_cuts_at_the_end_of_the_message_whatever_it_says(make_tokenizer: Make, content: str) -> None:
    tokenizer = chat_tokenizer(base=make_tokenizer())
    chat = [*CHAT, {"role": "assistant", "content": content}]
    tokens = tokenizer.prompts(chat, continue_final_message=True)["base"]
    shown = make_tokenizer().decode(tokens)
    assert shown.rstrip() == f"<|user|>water the plants<|end|><|assistant|>{content}".rstrip()


def test_without_a_generation_prompt_the_chat_ends_behind_its_last_message(make_tokenizer: Make) -> None:
    base = make_tokenizer()
    tokens = chat_tokenizer(base=base).prompts(CHAT, add_generation_prompt=False)["base"]
    assert base.decode(tokens) == "<|user|>water the plants<|end|>"


def test_a_template_that_does_not_show_the_last_message_cannot_go_on_with_it(make_tokenizer: Make) -> None:
    base = make_tokenizer(chat_template="{{ messages[0].content }}")
    chat = [*CHAT, {"role": "assistant", "content": "First"}]
    with pytest.raises(InvalidRequest, match="could go on") as caught:
        chat_tokenizer(base=base).prompts(chat, continue_final_message=True)
    assert "CONTINUE" not in caught.value.message


def with_bos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", 2)]
    )
    return tokenizer


def test_a_raw_prompt_is_read_as_the_tokenizer_reads_text(make_tokenizer: Make) -> None:
    plain, begun = chat_tokenizer(base=make_tokenizer()), chat_tokenizer(base=with_bos(make_tokenizer()))
    expected = tuple(make_tokenizer().encode("the kettle", add_special_tokens=False))
    assert plain.raw_prompt("the kettle").tokens == expected
    assert begun.raw_prompt("the kettle").tokens == (2, *expected)
    assert begun.raw_prompt(expected).tokens == expected


def test_an_empty_prompt_needs_a_token_to_begin_with(make_tokenizer: Make) -> None:
    assert chat_tokenizer(base=with_bos(make_tokenizer())).raw_prompt("").tokens == (2,)
    named = make_tokenizer()
    named.bos_token = "<|user|>"
    assert chat_tokenizer(base=named).raw_prompt("").tokens == (3,)
    with pytest.raises(InvalidRequest, match="empty") as caught:
        chat_tokenizer(base=make_tokenizer()).raw_prompt("")
    assert caught.value.param == "prompt"


def test_an_echo_says_where_each_token_begins(make_tokenizer: Make) -> None:
    base = with_bos(make_tokenizer())
    prompt = chat_tokenizer(base=base).raw_prompt("the <|user|> é kettle", echo=True)
    assert prompt.text == "the <|user|> é kettle"
    assert len(prompt.offsets) == len(prompt.tokens)
    assert prompt.offsets[:2] == (0, 0)  # the tokenizer's own token is not in the text
    user = prompt.tokens.index(3)
    assert prompt.text[prompt.offsets[user] : prompt.offsets[user + 1]] == "<|user|>"
    accent = base.encode("é", add_special_tokens=False)
    at = next(i for i in range(len(prompt.tokens)) if list(prompt.tokens[i : i + 2]) == accent[-2:])
    assert prompt.text[prompt.offsets[at]] == prompt.text[prompt.offsets[at + 1]] == "é"
    last = [prompt.text[begin:] for begin in prompt.offsets][-1]
    assert base.decode(prompt.tokens[-1:]) == last


def test_an_echo_of_token_ids_is_their_text(make_tokenizer: Make) -> None:
    base = make_tokenizer()
    tokens = [3, *base.encode("kettle", add_special_tokens=False), 0]
    prompt = chat_tokenizer(base=base).raw_prompt(tokens, echo=True)
    assert prompt.text == "<|user|>kettle<|end|>"
    assert [prompt.text[begin:] for begin in prompt.offsets][-1] == "<|end|>"


def test_raw_text_that_cannot_fit_is_refused_before_it_is_tokenized(make_tokenizer: Make) -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        chat_tokenizer(base=make_tokenizer()).raw_prompt("x" * 100_000)
    assert caught.value.param == "prompt"


def test_all_work_runs_in_one_thread() -> None:
    async def names() -> set[str]:
        thread = TokenizerThread()
        found = await asyncio.gather(
            *(thread.run(lambda: threading.current_thread().name) for _ in range(20))
        )
        thread.stop()
        return set(found)

    assert len(asyncio.run(names())) == 1


def test_owners_go_in_turn_and_too_much_of_one_is_refused() -> None:
    done: list[str] = []

    async def work() -> None:
        thread, gate, begun = TokenizerThread(most=3), threading.Event(), threading.Event()

        def hold() -> None:
            begun.set()
            gate.wait(20)

        tasks = [asyncio.create_task(thread.run(hold, "gate"))]
        await asyncio.to_thread(begun.wait, 20)
        for owner, name in (("flood", "f0"), ("flood", "f1"), ("flood", "f2"), ("quiet", "q0")):
            tasks.append(asyncio.create_task(thread.run(partial(done.append, name), owner)))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull) as refused:
            await thread.run(lambda: None, "flood")
        assert refused.value.retry_after
        gate.set()
        await asyncio.gather(*tasks)
        thread.stop()

    asyncio.run(work())
    assert done == ["f0", "q0", "f1", "f2"]


def test_other_members_read_beside_those_who_go_on_as_they_did(make_tokenizer: Make) -> None:
    own = {"a": "A:{{ messages[0].content }}", "b": "B:{{ messages[0].content }}"}
    tokenizers = {name: make_tokenizer(chat_template=text) for name, text in own.items()}
    before = chat_tokenizer(base=make_tokenizer(), helpful=make_tokenizer(), harmless=tokenizers["a"])
    late = {"helpful#2": tokenizers["b"], "harmless#3": make_tokenizer(chat_template=own["a"])}
    contexts = {"base": 64, "harmless": 64, "helpful#2": 32, "harmless#3": 64}
    after = before.changed(late, contexts, contexts)
    read = after.prompts(CHAT)
    assert set(read) == {"base", "harmless", "helpful#2", "harmless#3"} == set(after.members)
    assert after.members[0] == "base"
    assert read["harmless"] is read["harmless#3"], "read alike"
    shown = {name: make_tokenizer().decode(tokens) for name, tokens in read.items()}
    assert (shown["helpful#2"], shown["harmless"]) == ("B:water the plants", "A:water the plants")
    assert before.prompts(CHAT).keys() == {"base", "helpful", "harmless"}
    with pytest.raises(ContextLengthExceeded, match=r"32 tokens \(the limit of helpful\)"):
        after.prompts([{"role": "user", "content": "x" * 4000}], members=["helpful#2"])
    refusing = {"polite#4": make_tokenizer(chat_template="{{ raise_exception('no') }}")}
    with pytest.raises(InvalidRequest, match="template of 'polite' refuses"):
        after.changed(refusing, ["base", "polite#4"], {"base": 64, "polite#4": 64}).prompts(CHAT)
