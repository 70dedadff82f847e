"""Prompts of one's own."""

import json
from pathlib import Path

import pytest

from arm_models.errors import UserError
from arm_models.evaluation.prompts import demo_prompts, file_prompts, from_source, instruction


def test_a_line_is_a_conversation_or_a_text(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    lines = [{"messages": chat}, {"prompt": "one"}, {"instruction": "two", "output": "x"}]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    read = file_prompts(file)
    assert [list(messages) for messages in read.messages] == [
        chat,
        [{"role": "user", "content": "one"}],
        [{"role": "user", "content": "two"}],
    ]
    assert file_prompts(file, 2).messages == read.messages[:2]
    assert file_prompts(file, 2).source["sha256"] != read.source["sha256"]
    assert instruction(read.messages[1]) == "one"
    assert instruction(read.messages[0]) == "system: Be brief.\n\nuser: hi"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x", "line 1: not JSON"),
        ("3", "line 1: must be an object"),
        ("{}", "line 1: needs messages"),
        ('{"prompt": 3}', "line 1: needs messages"),
        ('{"messages": []}', "line 1: messages must be"),
        ('{"messages": [{"role": "user"}]}', "line 1: messages must be"),
        ("", "no prompts"),
    ],
)
def test_what_cannot_be_read_names_the_line(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(line)
    with pytest.raises(UserError, match=message):
        file_prompts(file)


def test_the_demos_prompts_come_back_from_what_a_sweep_says_of_them(tmp_path: Path) -> None:
    made = demo_prompts(4, 3)
    assert from_source(made.source) == made
    assert from_source({"file": "x", "sha256": "y"}) is None
    with pytest.raises(UserError, match="cannot be read"):
        file_prompts(tmp_path / "none")
