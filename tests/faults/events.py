"""What must not be of a stream of events, whoever asked for it."""

import json
from collections.abc import Sequence

DONE = "[DONE]"
TYPED_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})
"""What the last event of a stream of typed ones may be."""

ENDS = frozenset({"queue_timeout", "timeout"})
"""Codes of errors that a stream may end with: there was no time left for it."""

WORDS = ("The request waited longer than", "The request took longer than")
"""What a stream of typed events says instead, which have one code for everything."""


def fault(lines: Sequence[bytes]) -> str:
    """What is wrong with a stream that was read to its end, line by line; "" where nothing is.

    It has comments, names of events, data in JSON, and one end: ``[DONE]``, the last of typed events, or one promised error.
    """
    data: list[str] = []
    for line in lines:
        field, _, value = line.decode().rstrip("\r\n").partition(": ")
        if field == "data":
            data.append(value)
        elif field not in ("", "event"):
            return f"a line that is none of a stream: {line[:100]!r}"
    try:
        events = [DONE if one == DONE else json.loads(one) for one in data]
    except ValueError as error:
        return f"an event that is no JSON: {error}"
    ends = [place for place, event in enumerate(events) if _is_end(event)]
    if ends != [len(events) - 1]:
        return f"ends at {ends} of {len(events)} events"
    error = _error(events[-1])
    if error is None or error.get("code") in ENDS or str(error.get("message")).startswith(WORDS):
        return ""
    return f"ended by {error}"


def _is_end(event: object) -> bool:
    if not isinstance(event, dict):
        return event == DONE
    return "error" in event or event.get("type") in TYPED_ENDS


def _error(event: object) -> dict[str, object] | None:
    """The error that an event tells of."""
    if not isinstance(event, dict):
        return None
    told = event.get("error") or (event.get("response") or {}).get("error")
    return told if isinstance(told, dict) else None
