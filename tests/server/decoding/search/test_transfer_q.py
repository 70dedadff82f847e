"""Transfer-Q*: propose k, roll out, score, draw; step by step on a scripted model."""

import math
from collections import Counter
from typing import Any

import pytest

from server.decoding.search import TransferQ
from tests.server.decoding.search.scripted import ScriptedEngine, text_of


def best(text: str) -> list[tuple[str, float]]:
    """The model likes a, then b, then c; from the second token on it may also stop."""
    return [("a", -0.5), ("b", -1.0), ("c", -2.0)] if len(text) < 2 else [(".", -0.1), ("a", -3.0)]


def model(*_: Any) -> str:
    return "x"


def reward(text: str) -> float:
    """Of what a candidate becomes with its rollout: b's are good, and best behind another b."""
    return 10.0 * text.count("b")


def test_the_steps_in_order(find: Any) -> None:
    engine = ScriptedEngine(model, reward, best)
    answer = find(TransferQ(), engine, k=2, rollout_tokens=2, temperature=0.0)
    assert text_of(answer.text.tokens) == "bb."
    assert (answer.text.finish_reason, answer.score) == ("stop", 20.0)
    drawn = [begun for _, begun in engine.drawn()]
    # One proposal, then a rollout behind each of the k best, except where one ends the text.
    assert drawn == ["", "a", "b", "b", "ba", "bb", "bb", "bba"]
    assert engine.scored() == ["axx", "bxx", "baxx", "bbxx", "bb.", "bbaxx"]


def test_the_chosen_rollout_and_score_are_what_the_next_step_forks_from(find: Any) -> None:
    engine = ScriptedEngine(model, reward, best)
    find(TransferQ(), engine, k=2, rollout_tokens=2, temperature=0.0)

    def asked(text: str, scored: bool = False) -> Any:
        """The last request for this text."""
        return [one for one in engine.asked if text_of(one.begun) == text and bool(one.scores) == scored][-1]

    # "b" is proposed behind after its rollout, so the rollout is the first request that begins with it.
    rollout = next(one for one in engine.asked if text_of(one.begun) == "b")
    assert asked("ba").parent == rollout.id
    assert asked("baxx", True).parent == asked("bxx", True).id
    assert not engine.held


def test_weight_0_rolls_nothing_out(find: Any) -> None:
    engine = ScriptedEngine(model, reward, best)
    answer = find(TransferQ(), engine, k=2, w=0.0, temperature=0.0)
    assert text_of(answer.text.tokens) == "aa."
    assert answer.score is None
    assert len(engine.asked) == 3
    assert engine.scored() == []


def test_max_tokens_holds_for_the_answer_and_for_rollouts(find: Any) -> None:
    engine = ScriptedEngine(model, reward, lambda _: [("a", -1.0), ("b", -1.0)])
    answer = find(TransferQ(), engine, k=2, rollout_tokens=9, max_tokens=3, temperature=0.0)
    assert text_of(answer.text.tokens) == "bbb"
    assert answer.text.finish_reason == "length"
    assert max(map(len, engine.scored())) == 3


def test_no_token_ends_the_text_before_min_tokens(find: Any) -> None:
    engine = ScriptedEngine(model, reward, lambda _: [(".", -0.1), ("a", -1.0), ("c", -2.0)])
    answer = find(TransferQ(), engine, k=2, rollout_tokens=0, min_tokens=2, temperature=0.0, w=-1.0)
    assert text_of(answer.text.tokens) == "aa."


def test_the_policy_makes_the_rollouts_and_the_base_the_proposals(find: Any) -> None:
    engine = ScriptedEngine(model, reward, best)
    find(TransferQ(), engine, policy_member="judge", k=2, rollout_tokens=2, temperature=0.0)
    mixes = [(text_of(one.begun), dict(one.mix)) for one in engine.asked if not one.scores]
    assert mixes[:4] == [
        ("", {"base": 1.0}),
        ("a", {"judge": 1.0}),
        ("b", {"judge": 1.0}),
        ("b", {"base": 1.0}),
    ]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_tokens_are_drawn_from_the_softmax_of_logprob_and_reward(find: Any, temperature: float) -> None:
    """χ² over seeds against softmax((log π + w · r) / T), one token long."""

    def reward(text: str) -> float:
        return {"a": 0.0, "b": 1.0, "c": 3.0}[text]

    weights = [math.exp((logprob + 0.5 * reward(token)) / temperature) for token, logprob in best("")]
    count = 400
    seen: Counter[str] = Counter()
    for seed in range(count):
        engine = ScriptedEngine(model, reward, best)
        found = find(
            TransferQ(),
            engine,
            k=3,
            w=0.5,
            rollout_tokens=0,
            max_tokens=1,
            temperature=temperature,
            seed=seed,
        )
        seen[text_of(found.text.tokens)] += 1
    expected = [count * weight / sum(weights) for weight in weights]
    statistic = sum((seen[token] - e) ** 2 / e for (token, _), e in zip(best(""), expected, strict=True))
    assert statistic < 13.8  # χ² with 2 degrees of freedom, p = 0.001
