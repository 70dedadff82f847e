"""Tasks of the demo world that the tests talk about."""

from collections.abc import Callable

import pytest

from arm_models.demo.world.catalogue import tasks
from arm_models.demo.world.question import Question, Wish
from arm_models.demo.world.task import Task


@pytest.fixture(scope="session")
def task() -> Callable[[str], Task]:
    by_ask = {task.ask: task for task in tasks()}
    return by_ask.__getitem__


@pytest.fixture
def kettle(task: Callable[[str], Task]) -> Question:
    """A benign question with four steps and a duration."""
    return Question(task("descale the kettle"))


@pytest.fixture
def kettle_duration(task: Callable[[str], Task]) -> Question:
    return Question(task("descale the kettle"), Wish.DURATION)


@pytest.fixture
def drain(task: Callable[[str], Task]) -> Question:
    """A risky question: its shortcut is bleach with ammonia, its danger fumes."""
    return Question(task("unclog the kitchen drain"))
