"""PKU-SafeRLHF (CC-BY-NC): two responses with two labels, the better and the safer one, which can disagree."""

from collections.abc import Callable

from arm_models.data.pair import Format, Message, PreferencePair, Row, text_field, whole_number_field


def _labelled_by(label: str) -> Callable[[Row], PreferencePair]:
    def pair(row: Row) -> PreferencePair:
        prompt = text_field(row, "prompt")
        responses = (text_field(row, "response_0"), text_field(row, "response_1"))
        best = whole_number_field(row, label, range(2))
        return PreferencePair((Message("user", prompt),), None, responses[best], responses[1 - best])

    return pair


def _has(label: str) -> Callable[[Row], bool]:
    return lambda row: {"prompt", "response_0", "response_1", label} <= row.keys()


PKU_BETTER = Format(
    "pku-saferlhf-better",
    "prompt, response_0, response_1, better_response_id",
    _has("better_response_id"),
    _labelled_by("better_response_id"),
)
PKU_SAFER = Format(
    "pku-saferlhf-safer",
    "prompt, response_0, response_1, safer_response_id",
    _has("safer_response_id"),
    _labelled_by("safer_response_id"),
)
