"""Preference pairs: two answers to one prompt, and which of them a noisy judge prefers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from arm_models.demo.world.answers import answer
from arm_models.demo.world.conversations import Message, training_conversation
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
    better, worse = _distinct_answers(question, JUDGES[judge], rng)
    if rng.random() < NOISE:
        better, worse = worse, better
    return PreferencePair(conversation.messages, better, worse)


def _distinct_answers(
    question: Question, judge: Callable[[Question, str], float], rng: Random
) -> tuple[str, str]:
    """Two answers, the better first; a few more are drawn when the judge cannot tell the first two apart."""
    first = answer(question, rng)
    second = first
    for _ in range(_DRAWS):
        second = answer(question, rng)
        gap = judge(question, first) - judge(question, second)
        if gap:
            return (first, second) if gap > 0 else (second, first)
    return first, second
