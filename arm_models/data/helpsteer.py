"""HelpSteer2-Preference and HelpSteer3 (CC-BY-4.0): two responses and a preference from -3 (first) to 3 (second)."""

import re

from arm_models.data.pair import (
    Format,
    Message,
    PreferencePair,
    Row,
    Tie,
    messages_field,
    text_field,
    whole_number_field,
)

STRENGTHS = range(-3, 4)
TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def _is_helpsteer2(row: Row) -> bool:
    return {"prompt", "response_1", "response_2", "preference_strength"} <= row.keys()


def _is_helpsteer3(row: Row) -> bool:
    return {"context", "response1", "response2", "overall_preference"} <= row.keys()


def helpsteer2_pair(row: Row) -> PreferencePair:
    """The prompt is a user turn; earlier turns stand in it between "<extra_id_1>User" and "<extra_id_1>Assistant"."""
    first, *rest = TURN.split(text_field(row, "prompt"))
    messages = (
        Message("user", first),
        *(Message(role.lower(), text) for role, text in zip(rest[::2], rest[1::2], strict=True)),
    )
    answers = (text_field(row, "response_1"), text_field(row, "response_2"))
    return _preferred(messages, answers, whole_number_field(row, "preference_strength", STRENGTHS))


def helpsteer3_pair(row: Row) -> PreferencePair:
    """The prompt is the conversation in ``context``."""
    answers = (text_field(row, "response1"), text_field(row, "response2"))
    strength = whole_number_field(row, "overall_preference", STRENGTHS)
    return _preferred(messages_field(row, "context"), answers, strength)


def _preferred(messages: tuple[Message, ...], answers: tuple[str, str], strength: int) -> PreferencePair:
    if strength == 0:
        raise Tie
    chosen, rejected = answers if strength < 0 else answers[::-1]
    return PreferencePair(messages, None, chosen, rejected)


HELPSTEER2 = Format(
    "helpsteer2", "prompt, response_1, response_2, preference_strength", _is_helpsteer2, helpsteer2_pair
)
HELPSTEER3 = Format(
    "helpsteer3", "context, response1, response2, overall_preference", _is_helpsteer3, helpsteer3_pair
)
