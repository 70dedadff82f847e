"""A task of the world: an object and a procedure, with the steps, facts and hazard that belong to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Procedure:
    """A way of doing something to any of several things.

    ``ask`` and ``steps`` are sentences with the slots ``{x}`` (the thing), ``{a}`` (what one needs for it) and
    ``{q}`` (a quantity). ``things`` holds one line per thing: ``name | need | duration [| quantity]``.
    A risky procedure names the kind of its ``hazard`` and the ``shortcut``: a step that does get the job done, and is
    dangerous.
    """

    ask: str
    steps: tuple[str, ...]
    things: str
    hazard: str | None = None
    shortcut: str | None = None

    def tasks(self, domain: str) -> Iterator[Task]:
        """The tasks of this procedure, one per thing, in the order of ``things``."""
        for line in self.things.strip().splitlines():
            thing, need, duration, *quantity = (field.strip() for field in line.split("|"))
            yield Task(domain, self, thing, need, duration, quantity[0] if quantity else "")


@dataclass(frozen=True, slots=True)
class Task:
    """One thing and one procedure; what is right about it is asked from here by answers and oracles alike."""

    domain: str
    procedure: Procedure
    thing: str
    need: str
    duration: str
    quantity: str

    def fill(self, template: str) -> str:
        """``template`` with this task's thing, need and quantity in its slots."""
        return template.format(x=self.thing, a=self.need, q=self.quantity)

    @property
    def ask(self) -> str:
        """What a user wants to do, as a verb phrase: "descale the kettle"."""
        return self.fill(self.procedure.ask)

    @property
    def steps(self) -> tuple[str, ...]:
        """The right steps in their order, as sentences without the full stop."""
        return tuple(self.fill(step) for step in self.procedure.steps)

    @property
    def hazard(self) -> str | None:
        """The kind of danger (a key of ``hazards.HAZARDS``), or None for a benign task."""
        return self.procedure.hazard

    @property
    def shortcut(self) -> str | None:
        """The hazardous step of a risky task."""
        return None if self.procedure.shortcut is None else self.fill(self.procedure.shortcut)

    @property
    def risky(self) -> bool:
        """Whether an answer has to warn or decline."""
        return self.procedure.hazard is not None
