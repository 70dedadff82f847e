"""Which models a deployment has for which role, and under which name the engine knows each.

A policy or a reference that is a model which another role has already, held the same way, is that member.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from server.config import Deployment, MemberSettings
from server.decoding.row import BASE, NEGATIVE


@dataclass(frozen=True)
class Reward:
    """A reward model: a member of its name. With a ``reference``, a member too, it is a pair: log π − log π_reference."""

    name: str
    default: float = 1.0
    reference: str | None = None


@dataclass(frozen=True)
class Policy:
    """A whole model that may stand in the base's place: ``member``, and the ``reference`` member it was trained from."""

    name: str
    member: str
    reference: str


@dataclass(frozen=True)
class Scorer:
    """A model that gives a text a number; ``trained_on`` is "responses" or "prefixes". A member of its name."""

    name: str
    trained_on: str


@dataclass(frozen=True)
class Conditioned:
    """An autoregressive reward model that a vector of weights of its ``objectives`` goes into. A member of its name."""

    name: str
    objectives: tuple[str, ...]


@dataclass(frozen=True)
class Roster:
    """The models of a deployment by role.

    ``negative``: whether the base has a second context. ``settings``: what each member is loaded from, the base first.
    """

    rewards: tuple[Reward, ...] = ()
    policies: tuple[Policy, ...] = ()
    scorers: tuple[Scorer, ...] = ()
    conditioned: Conditioned | None = None
    negative: bool = False
    settings: Mapping[str, MemberSettings] = field(default_factory=dict)

    @classmethod
    def of(cls, deployment: Deployment) -> Roster:
        """The roster of ``deployment``."""
        cast = _Cast(deployment.base)
        for own in deployment.rewards:
            cast.enter(own.name, own)
        members = [cast.share(policy.name, policy) for policy in deployment.policies]
        rewards = [
            Reward(one.name, one.default, one.reference and cast.reference(one.name, one, one.reference))
            for one in deployment.rewards
        ]
        policies = [
            Policy(one.name, member, cast.reference(one.name, one, one.reference))
            for one, member in zip(deployment.policies, members, strict=True)
        ]
        special = deployment.conditioned
        if special is not None:
            cast.enter(special.name, special)
        for scorer in deployment.scorers:
            cast.enter(scorer.name, scorer)
        return cls(
            rewards=tuple(rewards),
            policies=tuple(policies),
            scorers=tuple(Scorer(one.name, one.trained_on) for one in deployment.scorers),
            conditioned=None if special is None else Conditioned(special.name, special.objectives),
            negative=deployment.base.negative_prompt,
            settings=cast.settings,
        )

    @property
    def members(self) -> tuple[str, ...]:
        """Every member's name, the base first and its second context, if it has one, last."""
        return (*self.settings, *((NEGATIVE,) if self.negative else ()))


class _Cast:
    """Gives every model its member. ``settings``: of each member, the base first."""

    def __init__(self, base: MemberSettings) -> None:
        self.settings: dict[str, MemberSettings] = {BASE: base}
        self._shared = {_identity(base): BASE}

    def enter(self, name: str, settings: MemberSettings) -> None:
        """A model that is a member of its own name, whoever else has it."""
        self.settings[name] = settings
        self._shared.setdefault(_identity(settings), name)

    def share(self, name: str, settings: MemberSettings) -> str:
        """The member that is this model already, or else a new one."""
        member = self._shared.setdefault(_identity(settings), name)
        if member == name:
            self.settings[name] = settings
        return member

    def reference(self, name: str, settings: MemberSettings, reference: str) -> str:
        """The member that ``reference`` means: the base, or a model that is held as ``settings`` are."""
        if reference == BASE:
            return BASE
        held = settings.model_dump(include={"device", "dtype", "chat_template"})
        return self.share(f"{name}.reference", MemberSettings(model=reference, **held))


def _identity(settings: MemberSettings) -> tuple[str | None, ...]:
    """What makes two models the same."""
    return settings.model, settings.device, settings.dtype, settings.chat_template
