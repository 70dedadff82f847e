"""The demo's tokenizer and chat template."""

from itertools import chain

import pytest
from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from arm_models.demo.pretraining import encode
from arm_models.demo.tokenizer import END, ROLES, train_tokenizer
from arm_models.demo.world.conversations import transcript


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    transcripts = (transcript(0, index) for index in range(300))
    return train_tokenizer((turn["content"] for turn in chain.from_iterable(transcripts)), 600, 1024)


@pytest.mark.parametrize(
    "text", ["How do I descale the kettle?", " two  spaces ", "Käse für 3 € – 日本 🫖", "\n\t", "<|end|"]
)
def test_every_text_comes_back_byte_for_byte(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_a_conversation_is_rendered_with_an_end_after_every_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": role, "content": f" {role} text "} for role in ROLES]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "".join(f"<|{role}|>{role} text<|end|>" for role in ROLES) + "<|assistant|>"


def test_parts_of_text_and_no_content_are_accepted(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]},
        {"role": "assistant", "content": None},
    ]
    assert (
        tokenizer.apply_chat_template(messages, tokenize=False)
        == "<|user|>Hello there<|end|><|assistant|><|end|>"
    )


def test_an_unknown_role_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(TemplateError, match="Unknown role wizard"):
        tokenizer.apply_chat_template([{"role": "wizard", "content": "x"}], tokenize=False)


def test_markers_are_single_tokens_and_the_end_is_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.eos_token == END
    for marker in (END, *(f"<|{role}|>" for role in ROLES)):
        assert len(tokenizer(marker, add_special_tokens=False)["input_ids"]) == 1


def test_training_reads_what_the_template_renders(tokenizer: PreTrainedTokenizerFast) -> None:
    for index in range(40):
        messages = transcript(1, index)
        ids, labels = encode(tokenizer, messages)
        assert ids == tokenizer.apply_chat_template(list(messages), tokenize=True, return_dict=False)
        answered = tokenizer.decode([label for label in labels if label >= 0])
        assert answered == "".join(
            f"{turn['content']}{END}" for turn in messages if turn["role"] == "assistant"
        )


def test_a_saved_tokenizer_keeps_its_template(tokenizer: PreTrainedTokenizerFast, tmp_path: object) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.chat_template == tokenizer.chat_template
    assert again.eos_token == END
