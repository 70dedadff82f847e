"""UltraFeedback, binarized (MIT): the prompt as text beside two whole conversations."""

from arm_models.data.pair import Format, PreferencePair, Row, RowError, messages_field, text_field
from arm_models.data.standard import split_conversations


def _is_binarized(row: Row) -> bool:
    return (
        isinstance(row.get("prompt"), str)
        and isinstance(row.get("chosen"), list)
        and isinstance(row.get("rejected"), list)
    )


def binarized_pair(row: Row) -> PreferencePair:
    """The conversations decide; the prompt column has to be one of the turns they share."""
    prompt = text_field(row, "prompt")
    pair = split_conversations(messages_field(row, "chosen"), messages_field(row, "rejected"))
    if all(message.content != prompt for message in pair.messages or ()):
        raise RowError("prompt: is not among the messages of chosen")
    return pair


ULTRAFEEDBACK = Format(
    "ultrafeedback", "prompt (text), chosen, rejected (whole conversations)", _is_binarized, binarized_pair
)
