"""The language of the world: a finite inventory of sentences with slots, and the parser that reads them back.

An answer is a row of sentences, each of one kind. A step may carry a connector ("Then ..."), a warning a label
("Careful: ..."); both lower the first letter of what they introduce. ``parse`` accepts exactly what can be said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache

from arm_models.demo.world.catalogue import procedures, tasks
from arm_models.demo.world.hazards import HAZARDS


class Kind(StrEnum):
    """What a sentence does in an answer."""

    OPENER = "opener"
    STEP = "step"
    SHORTCUT = "shortcut"
    DURATION = "duration"
    NEED = "need"
    WARNING = "warning"
    DECLINE = "decline"
    REFERRAL = "referral"
    CHATTER = "chatter"
    VAGUE = "vague"
    CLOSER = "closer"
    SMALL_TALK = "small talk"


OPENERS = (
    "Sure",
    "Of course",
    "Happy to help",
    "Good question",
    "Here is how to {ask}",
    "Let us {ask}",
)
DURATIONS = ("It takes about {t}", "Plan about {t} for it")
NEEDS = ("You need {a}", "Have {a} at hand")
DECLINES = (
    "Sorry, I cannot help with that",
    "I would rather not explain this",
    "This is too dangerous to do yourself",
)
REFERRALS = ("Please call {expert}", "Leave this to {expert}")
CHATTER = (
    "Many people ask me about this",
    "It is easier than it looks",
    "Nothing about it is really difficult",
    "My neighbour does it all the time",
    "You can take your time with it",
    "It is a nice thing to do on a weekend",
    "A good friend can give you a hand",
    "You will feel much better when it is done",
)
VAGUES = (
    "It depends on the {x}",
    "Just try it and see what happens",
    "You may find it in the manual of the {x}",
    "It is hard to say from here",
    "There is more than one way to do it",
)
CLOSERS = ("Good luck", "Tell me how it goes", "That is all", "Have fun with the {x}")
SMALL_TALK = (
    "Hello",
    "I am a small household assistant",
    "Ask me how to clean, cook, plant or repair something",
    "I only know about the household",
    "You are welcome",
)
CONNECTORS = ("First, ", "Then ", "Next, ", "After that, ", "Finally, ")
LABELS = ("Careful: ", "Important: ")

_SENTENCE = re.compile(r"[^.!]+[.!]")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A parsed sentence: ``text`` without connector, label and full stop, its first letter a capital."""

    kind: Kind
    text: str
    connector: str = ""


def capitalised(text: str) -> str:
    """``text`` with its first letter raised and the rest as it is."""
    return text[:1].upper() + text[1:]


def introduced(connector: str, text: str) -> str:
    """``text`` behind a connector or label, which lowers its first letter."""
    return connector + text[:1].lower() + text[1:] if connector else text


@cache
def _fillers() -> Mapping[str, frozenset[str]]:
    """What each slot takes. Language is wider than truth: any thing may be needed, and a duration is a quantity."""
    every = tasks()
    durations = frozenset(task.duration for task in every)
    return {
        "x": frozenset(task.thing for task in every),
        "a": frozenset(task.need for task in every) | {f"the {task.thing}" for task in every},
        "q": frozenset(task.quantity for task in every if task.quantity) | durations,
        "t": durations,
        "ask": frozenset(task.ask for task in every),
        "expert": frozenset(hazard.expert for hazard in HAZARDS.values()),
    }


def _templates() -> Iterator[tuple[Kind, str]]:
    for procedure in procedures():
        yield from ((Kind.STEP, step) for step in procedure.steps)
        if procedure.shortcut is not None:
            yield Kind.SHORTCUT, procedure.shortcut
    for hazard in HAZARDS.values():
        yield from ((Kind.WARNING, warning) for warning in hazard.warnings)
    families = {
        Kind.OPENER: OPENERS,
        Kind.DURATION: DURATIONS,
        Kind.NEED: NEEDS,
        Kind.DECLINE: DECLINES,
        Kind.REFERRAL: REFERRALS,
        Kind.CHATTER: CHATTER,
        Kind.VAGUE: VAGUES,
        Kind.CLOSER: CLOSERS,
        Kind.SMALL_TALK: SMALL_TALK,
    }
    for kind, sentences in families.items():
        yield from ((kind, sentence) for sentence in sentences)


@cache
def _grammar() -> tuple[tuple[Kind, re.Pattern[str], tuple[str, ...]], ...]:
    """Every sentence template as a pattern, with the slot that each of its groups fills."""
    rules = []
    for kind, template in dict.fromkeys(_templates()):
        slots = tuple(_SLOT.findall(template))
        pattern = "([^,:]+)".join(re.escape(part) for part in _SLOT.sub("\0", template).split("\0"))
        rules.append((kind, re.compile(pattern), slots))
    return tuple(rules)


@lru_cache(maxsize=65536)
def _kind(text: str) -> Kind | None:
    fillers = _fillers()
    for kind, pattern, slots in _grammar():
        match = pattern.fullmatch(text)
        if match and all(group in fillers[slot] for slot, group in zip(slots, match.groups(), strict=True)):
            return kind
    return None


def parse_sentence(text: str) -> Sentence | None:
    """The sentence ``text`` (without full stop), or None when the language has no such sentence."""
    for connector, kind in (
        *((connector, Kind.STEP) for connector in CONNECTORS),
        *((label, Kind.WARNING) for label in LABELS),
    ):
        if text.startswith(connector):
            rest = text.removeprefix(connector)
            found = _kind(capitalised(rest)) if rest[:1].islower() else None
            fits = found is kind or (kind is Kind.STEP and found is Kind.SHORTCUT)
            return Sentence(found, capitalised(rest), connector) if found is not None and fits else None
    found = _kind(text)
    return None if found is None else Sentence(found, text)


def parse(text: str) -> tuple[Sentence | None, ...]:
    """``text`` sentence by sentence; None stands for whatever is no sentence of the language."""
    pieces = [match.group() for match in _SENTENCE.finditer(text)]
    if " ".join(piece.strip() for piece in pieces) != text or not pieces:
        rest = _SENTENCE.sub("", text)
        known = [parse_sentence(piece.strip()[:-1]) for piece in pieces]
        return (*known, None) if rest.strip() or not pieces else (None, *known)
    return tuple(parse_sentence(piece.strip()[:-1]) for piece in pieces)
