"""The forms TRL calls standard, conversational and implicit-prompt."""

from arm_models.data.pair import Format, Message, PreferencePair, Row, RowError, messages_field, text_field


def _is_explicit(row: Row) -> bool:
    same_kind = type(row.get("prompt")) is type(row.get("chosen")) is type(row.get("rejected"))
    return same_kind and isinstance(row.get("prompt"), str | list)


def explicit_pair(row: Row) -> PreferencePair:
    """{prompt, chosen, rejected}: three texts, or the prompt's messages and two lists of one assistant message."""
    if not isinstance(row.get("prompt"), list):
        prompt = text_field(row, "prompt")
        if not prompt:
            raise RowError("prompt: is empty; there is nothing to answer")
        return PreferencePair(None, prompt, text_field(row, "chosen"), text_field(row, "rejected"))
    prompt_messages = messages_field(row, "prompt")
    chosen = _one_answer(messages_field(row, "chosen"), "chosen")
    return PreferencePair(
        prompt_messages, None, chosen, _one_answer(messages_field(row, "rejected"), "rejected")
    )


def _is_implicit(row: Row) -> bool:
    return "prompt" not in row and "chosen" in row and "rejected" in row


def implicit_pair(row: Row) -> PreferencePair:
    """{chosen, rejected} that both begin with the prompt: it is what they share."""
    if not isinstance(row.get("chosen"), list):
        return _split_text(text_field(row, "chosen"), text_field(row, "rejected"))
    return split_conversations(messages_field(row, "chosen"), messages_field(row, "rejected"))


def split_conversations(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> PreferencePair:
    """Two conversations that differ in their last message, the assistant's; raises RowError."""
    if chosen[:-1] != rejected[:-1]:
        raise RowError("rejected: must have the messages of chosen up to its last one")
    if len(chosen) == 1:
        raise RowError("chosen: has no prompt before its answer")
    return PreferencePair(
        chosen[:-1], None, _one_answer(chosen[-1:], "chosen"), _one_answer(rejected[-1:], "rejected")
    )


def _one_answer(messages: tuple[Message, ...], field: str) -> str:
    if len(messages) != 1 or messages[0].role != "assistant":
        roles = ", ".join(message.role for message in messages)
        raise RowError(f"{field}: must be one assistant message after the prompt, got roles: {roles}")
    return messages[0].content


def _split_text(chosen: str, rejected: str) -> PreferencePair:
    """As TRL does it: the prompt is the shared beginning, without the space before the first difference."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if shared and chosen[shared - 1] == " " and shared < max(len(chosen), len(rejected)):
        shared -= 1
    if not shared:
        raise RowError("rejected: must begin as chosen does; what they share is the prompt")
    return PreferencePair(None, chosen[:shared], chosen[shared:], rejected[shared:])


STANDARD = Format(
    "standard", "prompt, chosen, rejected (all text, or all lists of messages)", _is_explicit, explicit_pair
)
IMPLICIT = Format("implicit", "chosen, rejected (both with the prompt in front)", _is_implicit, implicit_pair)
