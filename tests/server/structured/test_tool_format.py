from collections.abc import Callable, Mapping
from typing import Any

import pytest

from server.structured import CallStyle, FormatError, ToolCall, ToolFormat
from server.structured.tool_format import Render, Slot, call_style, shows_tools

TOOLLESS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"


def test_the_format_is_what_the_template_writes(formats: Mapping[str, ToolFormat]) -> None:
    assert formats["tagged"] == ToolFormat(
        first=('<tool_call>\n{"name": "',),
        middle=('", "arguments": ',),
        next=('}\n</tool_call>\n<tool_call>\n{"name": "',),
        last=("}\n</tool_call>",),
    )
    assert formats["bare"] == ToolFormat(
        first=('{"name": "',), middle=('", "parameters": ',), next=None, last=("}",)
    )
    assert formats["listed"] == ToolFormat(
        first=('[TOOL_CALLS] [{"name": "',),
        middle=('", "arguments": ',),
        next=(', "id": "', Slot.ID, '"}, {"name": "'),
        last=(', "id": "', Slot.ID, '"}]'),
        style=CallStyle(short_ids=True),
    )
    assert formats["named"] == ToolFormat(
        first=("<function=",),
        middle=(">",),
        next=("</function><function=",),
        last=("</function>",),
        style=CallStyle(text_arguments=True),
    )


def test_a_call_is_announced_by_a_mark_or_opens_the_answer(formats: Mapping[str, ToolFormat]) -> None:
    markers = {name: format.marker for name, format in formats.items()}
    assert markers == {
        "tagged": "<tool_call>",
        "bare": None,
        "listed": "[TOOL_CALLS]",
        "named": "<function=",
    }


def test_ids_are_fresh_and_of_the_length_that_the_template_takes(formats: Mapping[str, ToolFormat]) -> None:
    long, short = formats["tagged"].new_id(), formats["listed"].new_id()
    assert long.startswith("call_")
    assert len(long) == 29
    assert len(short) == 9
    assert long != formats["tagged"].new_id()


def test_calls_written_are_calls_rendered(
    formats: Mapping[str, ToolFormat], rendering: Callable[[str], Render], styles: Mapping[str, str]
) -> None:
    for name, format in formats.items():
        calls = [ToolCall(format.new_id(), "look_up", '{"word": "é\\"{"}')]
        if format.next is not None:
            calls.append(ToolCall(format.new_id(), "add", '{"a": 1, "b": [2]}'))
        messages = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "", "tool_calls": [format.style.call(call) for call in calls]},
        ]
        text = rendering(styles[name])(messages, tools=None, add_generation_prompt=False)
        assert format.write(calls) in text


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (TOOLLESS, "does not show tools"),
        ("{{ tools | tojson }}" + TOOLLESS, "cannot read"),  # tools, but no calls
        ("{{ tools | tojson }}{% for m in messages %}{{ m.tool_calls }}{% endfor %}", "cannot read"),
        (
            "{{ tools | tojson }}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
            "<{{ c.function.name }}>{% for k, v in c.function.arguments.items() %}<{{ k }}>{{ v }}{% endfor %}"
            "{% endfor %}{% endfor %}",
            "cannot read",
        ),
        (
            "{{ tools | tojson }}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
            "{{ c.function.arguments | tojson }} {{ c.function.name }}{% endfor %}{% endfor %}",
            "cannot read",
        ),
        ("{{ raise_exception('no') }}", "does not show tools"),
    ],
)
def test_a_template_whose_calls_cannot_be_read_back_is_told_apart(
    template: str, reason: str, rendering: Callable[[str], Render]
) -> None:
    with pytest.raises(FormatError, match=reason):
        ToolFormat.derive(rendering(template), ["<|end|>"])


def test_what_a_template_shows_is_seen(rendering: Callable[[str], Render], styles: Mapping[str, str]) -> None:
    assert shows_tools(rendering(styles["tagged"]))
    assert not shows_tools(rendering(TOOLLESS))
    assert {name: call_style(rendering(template)) for name, template in styles.items()} == {
        "tagged": CallStyle(),
        "bare": CallStyle(),
        "listed": CallStyle(short_ids=True),
        "named": CallStyle(text_arguments=True),
    }
    assert call_style(rendering(TOOLLESS)) is None


def test_calls_and_results_keep_their_ids_together() -> None:
    call = ToolCall("call_0123456789abcdefghijklmn", "f", "{}")
    messages: list[dict[str, Any]] = [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call.id},
    ]
    for style, length in ((CallStyle(), 29), (CallStyle(short_ids=True), 9)):
        said, result = map(style.message, messages)
        assert said["tool_calls"][0]["id"] == result["tool_call_id"]
        assert len(result["tool_call_id"]) == length
    assert CallStyle(short_ids=True).id("abcdefghi") == "abcdefghi"
    assert messages[0]["tool_calls"] == [call]


def test_white_space_before_the_first_call_is_kept_apart(rendering: Callable[[str], Render]) -> None:
    template = (
        "{{ tools | tojson }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ '\n\n' }}<call>{{ c.function.name }} {{ c.function.arguments | tojson }}</call>{% endfor %}{% endfor %}"
    )
    format = ToolFormat.derive(rendering(template), [])
    assert format.first == ("\n\n<call>",)
    assert format.opening == ("<call>",)
    assert format.marker == "<call>"
