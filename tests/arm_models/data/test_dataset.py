"""Every known form of preference data becomes the same pairs; a line that cannot is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arm_models.data import Message, PreferencePair, read_pairs, split_by_prompt
from arm_models.errors import UserError

Write = Callable[..., Path]
USER = {"role": "user", "content": "How hot?"}
MESSAGES = (Message("user", "How hot?"),)


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(row, …)``: a JSONL file of these rows (a str goes in as it is)."""

    def write_rows(*rows: Any) -> Path:
        path = tmp_path / "pairs.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write_rows


FORMS: dict[str, tuple[dict[str, Any], PreferencePair]] = {
    "standard": (
        {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"},
        PreferencePair(None, "2 + 2 =", " 4", " 5"),
    ),
    "standard, conversational": (
        {"prompt": [USER], "chosen": [assistant("Very.")], "rejected": [assistant("No.")]},
        PreferencePair(MESSAGES, None, "Very.", "No."),
    ),
    "implicit": (
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        PreferencePair(None, "The sky is", " blue.", " green."),
    ),
    "implicit, conversational": (
        {"chosen": [USER, assistant("Very.")], "rejected": [USER, assistant("No.")], "score": 3},
        PreferencePair(MESSAGES, None, "Very.", "No."),
    ),
    "hh-rlhf": (
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: How hot?\n\nAssistant: Very.",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: How hot?\n\nAssistant: Vain.",
        },
        PreferencePair(
            (Message("user", "Hi"), Message("assistant", "Hello"), *MESSAGES),
            "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: How hot?\n\nAssistant:",
            "Very.",
            "Vain.",
            joint=" ",
        ),
    ),
    "pku-saferlhf-better": (
        {"prompt": "How hot?", "response_0": "No.", "response_1": "Very.", "better_response_id": 1},
        PreferencePair(MESSAGES, None, "Very.", "No."),
    ),
    "pku-saferlhf-safer": (
        {"prompt": "How hot?", "response_0": "Very.", "response_1": "No.", "safer_response_id": 0},
        PreferencePair(MESSAGES, None, "Very.", "No."),
    ),
    "ultrafeedback": (
        {
            "prompt": "How hot?",
            "prompt_id": "ab",
            "chosen": [USER, assistant("Very.")],
            "rejected": [USER, assistant("No.")],
            "score_chosen": 8.0,
        },
        PreferencePair(MESSAGES, None, "Very.", "No."),
    ),
    "helpsteer2": (
        {
            "prompt": "Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nHow hot?",
            "response_1": "Very.",
            "response_2": "No.",
            "preference_strength": -2,
        },
        PreferencePair((Message("user", "Hi"), Message("assistant", "Hello"), *MESSAGES), None, "Very.", "No."),
    ),
    "helpsteer3": (
        {"context": [USER], "response1": "No.", "response2": "Very.", "overall_preference": 1},
        PreferencePair(MESSAGES, None, "Very.", "No."),
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_recognised_by_its_columns_and_becomes_a_pair(form: str, write: Write) -> None:
    row, pair = FORMS[form]
    data = read_pairs(write(row))
    assert (data.format, data.pairs) == (form.split(",")[0], (pair,))


@pytest.mark.parametrize("form", FORMS)
def test_a_form_can_be_named(form: str, write: Write) -> None:
    row, pair = FORMS[form]
    assert read_pairs(write(row), form.split(",")[0]).pairs == (pair,)


BAD: list[tuple[str, Any, str]] = [
    ("standard", {"prompt": "2 + 2 =", "chosen": " 4"}, "rejected: missing"),
    ("standard", {"prompt": "2 + 2 =", "chosen": " 4", "rejected": 5}, "rejected: must be text, got 5"),
    ("standard", {"prompt": None, "chosen": " 4", "rejected": " 5"}, "prompt: must be text, got nothing"),
    ("standard", {"prompt": "", "chosen": " 4", "rejected": " 5"}, "prompt: is empty"),
    ("standard", [1, 2], "must be a JSON object, got list"),
    ("standard", '{"prompt": "2 + 2 =", "chosen": ', "not JSON"),
    (
        "standard, conversational",
        {"prompt": [USER], "chosen": [{"role": "assistant"}], "rejected": [assistant("x")]},
        "chosen[0].content: must be text, got nothing",
    ),
    (
        "standard, conversational",
        {"prompt": [USER], "chosen": [assistant("x"), USER], "rejected": [assistant("x")]},
        "chosen: must be one assistant message after the prompt, got roles: assistant, user",
    ),
    ("standard, conversational", {"prompt": [], "chosen": [], "rejected": []}, "prompt: must be a list of mess"),
    ("implicit", {"chosen": "yes", "rejected": "no"}, "rejected: must begin as chosen does"),
    (
        "implicit, conversational",
        {"chosen": [USER, assistant("a")], "rejected": [assistant("b")]},
        "rejected: must have the messages of chosen up to its last one",
    ),
    ("implicit, conversational", {"chosen": [assistant("a")], "rejected": [assistant("b")]}, "chosen: has no pro"),
    ("hh-rlhf", {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "c"}, "rejected: must share a prompt"),
    ("hh-rlhf", {"chosen": "x\n\nAssistant: b", "rejected": "x\n\nAssistant: c"}, "chosen: must begin with"),
    (
        "pku-saferlhf-better",
        {"prompt": "a", "response_0": "b", "response_1": "c", "better_response_id": 2},
        "better_response_id: must be a whole number from 0 to 1, got 2",
    ),
    (
        "ultrafeedback",
        {"prompt": "other", "chosen": [USER, assistant("a")], "rejected": [USER, assistant("b")]},
        "prompt: is not among the messages of chosen",
    ),
    (
        "helpsteer2",
        {"prompt": "a", "response_1": "b", "response_2": "c", "preference_strength": "much"},
        "preference_strength: must be a whole number from -3 to 3, got 'much'",
    ),
    ("helpsteer3", {"context": "a", "response1": "b", "response2": "c", "overall_preference": 1}, "context: must"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "row", "message"), BAD)
def test_a_bad_line_is_refused_by_its_number_and_field(
    form: str, row: Any, message: str, write: Write
) -> None:
    good = FORMS[form][0]
    path = write(good, "", row if isinstance(row, str) else json.dumps(row))
    with pytest.raises(UserError) as refused:
        read_pairs(path)
    assert str(refused.value).startswith(f"{path} line 3: {message}")
    assert "\n" not in str(refused.value)


def test_columns_of_no_form_are_refused(write: Write) -> None:
    with pytest.raises(UserError, match=r"line 1: chosen: missing, and the columns \['text'\] are of no"):
        read_pairs(write({"text": "a"}))
    with pytest.raises(
        UserError, match=r"line 1: prompt, chosen, rejected: must all be text or all be lists"
    ):
        read_pairs(write({"prompt": [USER], "chosen": "a", "rejected": "b"}))
    with pytest.raises(UserError, match="dataset_format: no form 'parquet'; there are auto, helpsteer2"):
        read_pairs(write({"text": "a"}), "parquet")


def test_two_labels_are_not_chosen_between(write: Write) -> None:
    row = {
        "prompt": "a",
        "response_0": "b",
        "response_1": "c",
        "better_response_id": 0,
        "safer_response_id": 1,
    }
    with pytest.raises(UserError, match="line 1: better_response_id, safer_response_id: both are here"):
        read_pairs(write(row))
    assert read_pairs(write(row), "pku-saferlhf-safer").pairs[0].chosen == "c"


def test_ties_are_counted_and_left_out(write: Write) -> None:
    tie = {"context": [USER], "response1": "a", "response2": "b", "overall_preference": 0}
    same = {"context": [USER], "response1": "a", "response2": "a", "overall_preference": 2}
    data = read_pairs(write(FORMS["helpsteer3"][0], tie, same))
    assert (len(data.pairs), data.ties) == (1, 2)
    with pytest.raises(UserError, match="no preference pairs in it, only 2 ties"):
        read_pairs(write(tie, same))


def test_a_missing_or_empty_file_is_refused(tmp_path: Path, write: Write) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl: No such file"):
        read_pairs(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="no preference pairs in it"):
        read_pairs(write(""))


def test_line_ends_and_separators_inside_text_are_text(write: Write) -> None:
    row = {"prompt": "a\u2028b", "chosen": "c\u0085", "rejected": "d"}
    path = write(json.dumps(row, ensure_ascii=False) + "\r", json.dumps(row, ensure_ascii=False))
    assert [pair.text for pair in read_pairs(path).pairs] == ["a\u2028b"] * 2


def test_hold_out_keeps_the_pairs_of_a_prompt_together() -> None:
    pairs = tuple(PreferencePair(None, f"prompt {i % 20}", f"a{i}", f"b{i}") for i in range(60))
    train, held_out = split_by_prompt(pairs, 0.25, seed=1)
    assert (len(train), len(held_out)) == (45, 15)
    assert not {pair.text for pair in train} & {pair.text for pair in held_out}
    assert split_by_prompt(pairs, 0.25, seed=1) == (train, held_out)
    assert split_by_prompt(pairs, 0.25, seed=2) != (train, held_out)
    with pytest.raises(UserError, match=r"eval_fraction: 0\.01 of 20 prompts leaves one side empty"):
        split_by_prompt(pairs, 0.01, seed=1)
