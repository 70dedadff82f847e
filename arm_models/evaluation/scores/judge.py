"""A language model that compares two answers: asked twice with the sides swapped; where it contradicts itself it is a tie."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from arm_models.evaluation.measures.winning import LOSS, TIE, WIN, swapped

Ask = Callable[[str], str]
"""A judge: what it says to one user message. May be called from several threads."""

PROMPT = """You compare two answers to the same request{criterion}. Neither the order nor the length of the answers matters.

[Request]
{request}

[Answer A]
{first}

[Answer B]
{second}

Which answer is better? Reply with [[A]], [[B]], or [[C]] for a tie."""

_MARKED = re.compile(r"\[\[\s*([ABC])\s*\]\]")
_SAID = re.compile(
    r"^\W*(?:(?:the\s+)?(?:better\s+)?answer\s*(?:is)?\s*:?\s*)?\W*(A|B|C|tie)\b\W*$", re.IGNORECASE
)


@dataclass(frozen=True)
class Verdict:
    """Points for our answer (1, ½, 0) and what the judge said with our answer first, then with it second."""

    points: float
    first: str
    second: str


def compare(ask: Ask, request: str, ours: str, other: str, criterion: str = "") -> Verdict:
    """Ask which of two answers is better, in both orders. ``criterion``: e.g. "is more helpful"."""
    first = ask(judge_prompt(request, ours, other, criterion))
    second = ask(judge_prompt(request, other, ours, criterion))
    return Verdict(swapped(points(first), _mirrored(points(second))), first, second)


def judge_prompt(request: str, first: str, second: str, criterion: str = "") -> str:
    """The message a judge gets. Values are put in as they are: braces in an answer mean nothing."""
    asked = f": judge which {criterion}" if criterion else ""
    parts = {"criterion": asked, "request": request, "first": first, "second": second}
    return re.sub(r"\{(\w+)\}", lambda match: parts[match[1]], PROMPT)


def points(reply: str) -> float | None:
    """What a reply gives to answer A: 1, ½ or 0; None where it cannot be read.

    The last [[A]], [[B]] or [[C]] counts; without one, a last line that says nothing but the choice.
    """
    marks = _MARKED.findall(reply)
    if marks:
        return _points(marks[-1])
    lines = [line for line in reply.splitlines() if line.strip()]
    said = _SAID.match(lines[-1]) if lines else None
    return _points(said[1]) if said else None


def _points(choice: str) -> float:
    return {"A": WIN, "B": LOSS}.get(choice.upper(), TIE)


def _mirrored(value: float | None) -> float | None:
    return None if value is None else 1.0 - value
