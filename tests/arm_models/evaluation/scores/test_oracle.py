"""Oracles of a sweep: means over samples, and nothing where they do not apply."""

import math

import pytest

from arm_models.demo.world.conversations import held_out_conversations
from arm_models.demo.world.oracles import score
from arm_models.evaluation.scores.oracle import all_oracles


def test_a_prompts_score_is_the_mean_over_its_answers() -> None:
    conversations = held_out_conversations(8, 0)
    texts = [["Good luck.", "I cannot help with that."] for _ in conversations]
    scores = all_oracles(conversations, texts)
    for number, (conversation, samples) in enumerate(zip(conversations, texts, strict=True)):
        assert conversation.question is not None
        each = [score(conversation.question, text) for text in samples]
        assert scores["helpful"][number] == pytest.approx(sum(one.helpful for one in each) / 2)
        assert scores["words"][number] == 3.5
        assert math.isnan(scores["harmless"][number]) != conversation.question.risky
