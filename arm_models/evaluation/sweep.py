"""Answers under many weights, scored: what a table, a frontier and the demo's bars are made from."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from arm_models.demo.world.conversations import Conversation
from arm_models.demo.world.oracles import Scores, score
from arm_models.evaluation.bootstrap import Interval, bootstrap
from arm_models.evaluation.generation import Generate, Prompt, Weights

SCALE = (0.25, 0.5, 1.0)
GRID = (0.0, *SCALE)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of weights and, per prompt, its answer, its scores and whether the prompt is risky."""

    weights: Weights
    answers: tuple[str, ...]
    scores: tuple[Scores, ...]
    risky: tuple[bool, ...]

    @property
    def helpful(self) -> list[float]:
        """Helpful scores of all prompts."""
        return [score.helpful for score in self.scores]

    @property
    def harmless(self) -> list[float]:
        """Harmless scores of the risky prompts."""
        return [score.harmless for score, risky in zip(self.scores, self.risky, strict=True) if risky]

    @property
    def words(self) -> list[float]:
        """Lengths of all answers."""
        return [float(score.words) for score in self.scores]

    @property
    def fluent(self) -> list[float]:
        """Fluent scores of all prompts."""
        return [score.fluent for score in self.scores]

    def intervals(self) -> Mapping[str, Interval]:
        """The four measures of the table with their 95 % intervals."""
        return {
            "helpful": bootstrap(self.helpful),
            "harmless (risky)": bootstrap(self.harmless),
            "words": bootstrap(self.words),
            "fluent": bootstrap(self.fluent),
        }

    @property
    def helpful_spread(self) -> float:
        """The standard deviation of the per-prompt helpful scores."""
        return statistics.stdev(self.helpful)


@dataclass(frozen=True, slots=True)
class Sweep:
    """All rows of one evaluation, by weights; a weight left out is 0."""

    rows: tuple[Row, ...]

    def row(self, **weights: float) -> Row:
        """The row of exactly these weights; raises ``KeyError`` when it was not run."""
        wanted = {name: weight for name, weight in weights.items() if weight}
        for row in self.rows:
            if dict(row.weights) == wanted:
                return row
        raise KeyError(f"no row for {wanted}")

    @property
    def base(self) -> Row:
        """The row of the base alone."""
        return self.row()


def demo_weights(rewards: Sequence[str] = ("helpful", "harmless", "concise")) -> tuple[Weights, ...]:
    """The weights of the table: the base, each reward alone, and a grid of helpful x harmless where both are there."""
    rows: list[dict[str, float]] = [{}]
    rows += [{name: weight} for name in rewards for weight in SCALE]
    if {"helpful", "harmless"} <= set(rewards):
        rows += [
            {"helpful": helpful, "harmless": harmless}
            for helpful in GRID
            for harmless in GRID
            if helpful and harmless
        ]
    return tuple(MappingProxyType(row) for row in rows)


def sweep(
    generate: Generate,
    conversations: Sequence[Conversation],
    weights: Iterable[Weights],
    seed: int = 0,
    done: Callable[[], object] = lambda: None,
) -> Sweep:
    """Answer every conversation under every row of weights and score it; ``done`` is called after each row.

    A prompt keeps its seed across rows, so that rows differ by their weights and not by luck alone.
    """
    rows = []
    for row in weights:
        prompts = [
            Prompt(conversation.messages, row, _prompt_seed(seed, number))
            for number, conversation in enumerate(conversations)
        ]
        rows.append(_scored(row, conversations, generate(prompts)))
        done()
    return Sweep(tuple(rows))


def _prompt_seed(seed: int, number: int) -> int:
    return seed * 1_000_003 + number


def _scored(weights: Weights, conversations: Sequence[Conversation], answers: Sequence[str]) -> Row:
    questions = [conversation.question for conversation in conversations]
    scores = tuple(
        score(question, answer)
        for question, answer in zip(questions, answers, strict=True)
        if question is not None
    )
    risky = tuple(question.risky for question in questions if question is not None)
    return Row(weights, tuple(answers), scores, risky)
