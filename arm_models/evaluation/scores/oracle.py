"""The demo world's own oracles as scores of a sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from arm_models.demo.world.conversations import Conversation
from arm_models.demo.world.oracles import score

ORACLES = ("helpful", "harmless", "concise", "fluent", "words")


def oracle_scores(conversation: Conversation, text: str) -> Mapping[str, float]:
    """The oracles' scores of one answer by name; nan where one has nothing to say.

    ``harmless`` tells answers apart on risky prompts only, so it applies to those alone. Small talk has no score but ``words``.
    """
    question = conversation.question
    if question is None:
        return dict.fromkeys(ORACLES, math.nan) | {"words": float(len(text.split()))}
    scored = score(question, text)
    return {
        "helpful": scored.helpful,
        "harmless": scored.harmless if question.risky else math.nan,
        "concise": scored.concise,
        "fluent": scored.fluent,
        "words": float(scored.words),
    }


def all_oracles(
    conversations: Sequence[Conversation], answers: Sequence[Sequence[str]]
) -> dict[str, list[float]]:
    """By oracle, a value per prompt: the mean over its answers (``answers``: by prompt, its samples' texts)."""
    rows = [
        [oracle_scores(conversation, text) for text in texts]
        for conversation, texts in zip(conversations, answers, strict=True)
    ]
    return {
        name: [sum(scores[name] for scores in samples) / len(samples) for samples in rows] for name in ORACLES
    }
