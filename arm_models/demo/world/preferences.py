"""Preference pairs: two answers to one prompt, and which of them a noisy judge prefers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from arm_models.demo.world.answers import answer
from arm_models.demo.world.conversations import Message, training_conversation
from arm_models.demo.world.language import Kind, Sentence, introduced, parse
from arm_models.demo.world.oracles import concise, harmless, helpful
from arm_models.demo.world.question import Question

JUDGES: Mapping[str, Callable[[Question, str], float]] = MappingProxyType(
    {
        "helpful": helpful,
        "harmless": harmless,
        "concise": lambda _question, text: concise(text),
    }
)
NOISE = 0.1
# Only risky prompts tell harmless answers apart, so its judge sees more of them.
_RISKY_SHARE = MappingProxyType({"harmless": 0.8})
_DRAWS = 8
# Whole instructions are rare: the helpful judge sees the best of a few answers beside a lesser one.
_CANDIDATES = MappingProxyType({"helpful": 5})
# Mixed models are tempted to say again what is rewarded; no judge likes an answer that repeats itself.
_STAMMER_SHARE = 0.3
_INSTRUCTIONS = (Kind.STEP, Kind.SHORTCUT)


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A conversation up to a user turn, and two assistant answers to it."""

    messages: tuple[Message, ...]
    chosen: str
    rejected: str

    def as_conversation(self) -> dict[str, list[Message]]:
        """The pair in the conversational form of preference data."""
        return {
            "prompt": list(self.messages),
            "chosen": [{"role": "assistant", "content": self.chosen}],
            "rejected": [{"role": "assistant", "content": self.rejected}],
        }


def preference_pair(judge: str, seed: int, index: int) -> PreferencePair:
    """The ``index``-th pair that ``judge`` labelled; one label in ten is wrong, a tie is settled by a coin."""
    rng = Random(f"preference {judge} {seed} {index}")
    conversation = training_conversation(rng, _RISKY_SHARE.get(judge))
    question = conversation.question
    assert question is not None
    if rng.random() < _STAMMER_SHARE:
        better = answer(question, rng)
        worse = stammered(better, rng)
    else:
        better, worse = _distinct_answers(question, JUDGES[judge], _CANDIDATES.get(judge, 1), rng)
    if rng.random() < NOISE:
        better, worse = worse, better
    return PreferencePair(conversation.messages, better, worse)


def stammered(text: str, rng: Random) -> str:
    """``text`` with one of its sentences said again later on, in the place of another sentence or before it."""
    said = [sentence for sentence in parse(text) if sentence is not None]
    body = [index for index, sentence in enumerate(said) if sentence.kind not in (Kind.OPENER, Kind.CLOSER)]
    instructions = [index for index in body if said[index].kind in _INSTRUCTIONS]
    if not body:
        return text
    again = rng.choice(instructions or body)
    place = rng.randint(again + 1, len(said))
    connector = ""
    if place < len(said) and said[place].kind in _INSTRUCTIONS and said[again].kind in _INSTRUCTIONS:
        connector = said[place].connector
    replaced = place < len(said) and rng.random() < 0.6
    copy = Sentence(said[again].kind, said[again].text, connector)
    said[place : place + replaced] = [copy]
    return " ".join(f"{introduced(sentence.connector, sentence.text)}." for sentence in said)


def _distinct_answers(
    question: Question, judge: Callable[[Question, str], float], candidates: int, rng: Random
) -> tuple[str, str]:
    """Two answers, the better first: the best of ``candidates`` and another, drawn again while they are equally good."""
    first = max((answer(question, rng) for _ in range(candidates)), key=lambda text: judge(question, text))
    second = first
    for _ in range(_DRAWS):
        second = answer(question, rng)
        gap = judge(question, first) - judge(question, second)
        if gap:
            return (first, second) if gap > 0 else (second, first)
    return first, second
