"""All tasks of the world, and the combinations of thing and procedure that no model is trained on."""

from __future__ import annotations

from functools import cache
from random import Random
from types import ModuleType

from arm_models.demo.world.domains import (
    cleaning,
    clothes,
    computers,
    garden,
    health,
    kitchen,
    pets,
    repairs,
    travel,
    vehicles,
)
from arm_models.demo.world.task import Procedure, Task

_DOMAINS: tuple[ModuleType, ...] = (
    kitchen,
    cleaning,
    clothes,
    garden,
    repairs,
    computers,
    travel,
    vehicles,
    pets,
    health,
)
# Every procedure keeps most of its things; these few are seen for the first time when models are scored.
_HELD_OUT = frozenset(
    {
        "cook the carrots",
        "freeze the beans",
        "clean the piano",
        "unclog the downpipe",
        "paint the wardrobe",
        "assemble the bench",
        "repair the blender",
        "repair the doorbell",
        "iron the curtains",
        "wash the wool skirt",
        "dye the silk scarf",
        "plant the fern",
        "repot the lavender",
        "prune the apple tree",
        "pack for the bus tour",
        "book the safari",
        "speed up the tablet",
        "wash down the motorbike",
        "jump-start the sports car",
        "change a wheel of the tractor",
        "bathe the kitten",
        "relieve the pony of its pain",
    }
)


@cache
def procedures() -> tuple[Procedure, ...]:
    """Every procedure, domain by domain."""
    return tuple(procedure for domain in _DOMAINS for procedure in domain.PROCEDURES)


@cache
def tasks() -> tuple[Task, ...]:
    """Every task, in a fixed order."""
    return tuple(
        task
        for domain in _DOMAINS
        for procedure in domain.PROCEDURES
        for task in procedure.tasks(domain.__name__.rpartition(".")[2])
    )


@cache
def training_tasks() -> tuple[Task, ...]:
    """The tasks that training conversations are about."""
    return tuple(task for task in tasks() if task.ask not in _HELD_OUT)


@cache
def held_out_tasks() -> tuple[Task, ...]:
    """The combinations kept for scoring: their thing or procedure is known, the two together are not."""
    return tuple(task for task in tasks() if task.ask in _HELD_OUT)


def made_up_task(rng: Random) -> Task:
    """A procedure with a thing it is never done to, and with the need, duration and quantity of things it is done to.

    Nothing about it is true, but whoever learns to answer has to take the thing from the question, as with the combinations
    that are kept for scoring, which never come out here.
    """
    every = tasks()
    like = rng.choice(training_tasks())
    siblings = [task for task in every if task.procedure is like.procedure]
    done_to = {task.thing for task in siblings}
    thing = rng.choice([task.thing for task in every if task.thing not in done_to])
    need, duration, quantity = (rng.choice(siblings) for _ in range(3))
    return Task(like.domain, like.procedure, thing, need.need, duration.duration, quantity.quantity)
