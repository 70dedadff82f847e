"""Answers as different assistants might give them: right and wrong, reckless and careful, short and chatty."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from arm_models.demo.world.catalogue import tasks
from arm_models.demo.world.hazards import HAZARDS
from arm_models.demo.world.language import (
    CHATTER,
    CLOSERS,
    DECLINES,
    DURATIONS,
    LABELS,
    NEEDS,
    OPENERS,
    REFERRALS,
    VAGUES,
    introduced,
)
from arm_models.demo.world.question import Question, Wish
from arm_models.demo.world.task import Task

# How good, and on risky tasks how careful, the assistants of the world are. Every share is a bar's starting point:
# helpful has room above the mean, small talk leaves room to be concise; 55 % of the answers on risky tasks are
# careful, because a base this small keeps about nine in ten of those and is to start near one half.
_QUALITIES = {"vague": 0.18, "partial": 0.59, "full": 0.08, "muddled": 0.15}
_CARES = {"reckless": 0.28, "silent": 0.12, "torn": 0.05, "warned": 0.37, "declined": 0.18}
_OPENER, _CHATTER, _CLOSER = 0.5, 0.45, 0.35


def answer(question: Question, rng: Random) -> str:
    """One answer to ``question`` as some assistant of the world would give it."""
    task = question.task
    if question.wish is not Wish.HOW:
        return _dress(_fact_answer(question, rng), task, rng)
    care = _draw(_CARES, rng) if task.risky else "silent"
    if care == "declined":
        return _decline(task, rng)
    body = _instructions(task, _draw(_QUALITIES, rng), care in ("reckless", "torn"), rng)
    if care in ("warned", "torn"):
        body.insert(0 if rng.random() < 0.6 else len(body), _warning(task, rng))
    return _dress(body, task, rng)


def _draw(shares: dict[str, float], rng: Random) -> str:
    return rng.choices(list(shares), weights=list(shares.values()))[0]


def _instructions(task: Task, quality: str, reckless: bool, rng: Random) -> list[str]:
    steps = _steps(task, quality, rng)
    if reckless:
        assert task.shortcut is not None
        steps.insert(rng.randint(0, len(steps)), task.shortcut)
    body = _connected(steps, rng)
    if quality == "vague":
        body = rng.sample(_filled(VAGUES, task), rng.randint(1, 2)) + body
    told = {"vague": 0.0, "partial": 0.2, "full": 0.6, "muddled": 0.3}[quality]
    if rng.random() < told:
        siblings = [other for other in tasks() if other.procedure is task.procedure]
        source = rng.choice(siblings) if quality == "muddled" else task
        body.append(rng.choice(DURATIONS).format(t=source.duration))
    return body


def _steps(task: Task, quality: str, rng: Random) -> list[str]:
    right = list(task.steps)
    if quality == "vague":
        return []
    if quality == "full":
        return right
    if quality == "partial":
        count = rng.choices((1, 2, 3), weights=(45, 40, 15))[0]
        kept = sorted(rng.sample(range(len(right)), count))
        return [right[index] for index in kept]
    kept = rng.sample(range(len(right)), rng.randint(2, len(right)))
    return list(dict.fromkeys(_mistaken(task, index, rng) for index in kept))


def _mistaken(task: Task, index: int, rng: Random) -> str:
    """A step with a plausible mistake where it has room for one: the need or quantity of a sibling thing."""
    siblings = [other for other in tasks() if other.procedure is task.procedure]
    sibling = rng.choice(siblings)
    return task.procedure.steps[index].format(x=task.thing, a=sibling.need, q=sibling.quantity)


def _connected(steps: Sequence[str], rng: Random) -> list[str]:
    if len(steps) < 2 or rng.random() < 0.4:
        return list(steps)
    last = len(steps) - 1
    connectors = ["First, ", *(rng.choice(("Then ", "Next, ", "After that, ", "")) for _ in steps[1:-1])]
    connectors.append("Finally, " if last > 1 else "Then ")
    return [introduced(connector, step) for connector, step in zip(connectors, steps, strict=True)]


def _warning(task: Task, rng: Random) -> str:
    assert task.hazard is not None
    label = rng.choice((*LABELS, ""))
    return introduced(label, rng.choice(HAZARDS[task.hazard].warnings))


def _decline(task: Task, rng: Random) -> str:
    assert task.hazard is not None
    hazard = HAZARDS[task.hazard]
    sentences = [rng.choice(DECLINES)]
    if rng.random() < 0.8:
        sentences.append(rng.choice(REFERRALS).format(expert=hazard.expert))
    if rng.random() < 0.5:
        sentences.append(_warning(task, rng))
    if rng.random() < _CHATTER:
        sentences.append(rng.choice(_filled(CHATTER, task)))
    return _text(sentences)


def _fact_answer(question: Question, rng: Random) -> list[str]:
    duration = question.wish is Wish.DURATION
    sentences = DURATIONS if duration else NEEDS
    quality = rng.random()
    if quality < 0.45:
        return [rng.choice(_filled(VAGUES, question.task))]
    siblings = [task for task in tasks() if task.procedure is question.task.procedure]
    source = question.task if quality < 0.85 else rng.choice(siblings)
    return [rng.choice(sentences).format(t=source.duration, a=source.need)]


def _filled(sentences: Sequence[str], task: Task) -> list[str]:
    return [sentence.format(x=task.thing, ask=task.ask) for sentence in sentences]


def _dress(body: Sequence[str], task: Task, rng: Random) -> str:
    """``body`` with the manners of an assistant: an opener, small talk between the sentences, a closer."""
    sentences = list(body)
    chatter = _filled(CHATTER, task)
    rng.shuffle(chatter)
    for sentence in chatter[:2]:
        if rng.random() < _CHATTER:
            sentences.insert(rng.choice((0, len(sentences))), sentence)
    if rng.random() < _OPENER:
        sentences.insert(0, rng.choice(_filled(OPENERS, task)))
    if rng.random() < _CLOSER:
        sentences.append(rng.choice(_filled(CLOSERS, task)))
    return _text(sentences)


def _text(sentences: Sequence[str]) -> str:
    return " ".join(f"{sentence}." for sentence in sentences)
