"""Which models a deployment has for which role, and under which name the engine knows each.

A policy or a reference that is a model which another role has already, held the same way, is that member.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from server.config import Deployment, MemberSettings, RewardSettings
from server.decoding.row import BASE, NEGATIVE
from server.errors import VERSION_MARK, shown_name


@dataclass(frozen=True)
class Reward:
    """A reward model: a member of its name. With a ``reference``, a member too, it is a pair: log π − log π_reference.

    One that came to a server that was running has a ``version``, which sets its member apart from earlier ones of its name.
    """

    name: str
    default: float = 1.0
    reference: str | None = None
    version: int | None = None

    @property
    def member(self) -> str:
        """The engine's name for the model."""
        return _versioned(self.name, self.version)


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

    @cached_property
    def labels(self) -> dict[str, str]:
        """How clients know each member of ``settings``: rewards by their names, the others without a version, unless a reward has
        that name now.
        """
        own = {reward.member: reward.name for reward in self.rewards}
        taken = set(own.values())
        others = [name for name in self.settings if name not in own]
        shown = {name: shown_name(name) for name in others}
        # A replaced reward's model that another role goes on with.
        apart = {name: name if VERSION_MARK in name else _versioned(name, 1) for name in others}
        return own | {name: apart[name] if shown[name] in taken else shown[name] for name in others}

    def with_reward(self, own: RewardSettings, version: int) -> Roster:
        """This roster with one reward more, or another one of its name in its place; its models are members of ``version``.

        A reference other than the base is a member of its own.
        """
        cast = _Cast(self.settings[BASE])
        reference = own.reference and cast.reference(own.name, own, own.reference, version)
        made = Reward(own.name, own.default, reference, version)
        settings = {**self.settings, made.member: own, **cast.settings}
        if any(reward.name == own.name for reward in self.rewards):
            rewards = tuple(made if reward.name == own.name else reward for reward in self.rewards)
        else:
            rewards = (*self.rewards, made)
        return self._with(rewards, settings)

    def without_reward(self, name: str) -> Roster:
        """This roster without a reward, and without the members that nobody else is."""
        rewards = tuple(reward for reward in self.rewards if reward.name != name)
        return self._with(rewards, self.settings)

    def _with(self, rewards: tuple[Reward, ...], settings: Mapping[str, MemberSettings]) -> Roster:
        roles = [BASE, *(scorer.name for scorer in self.scorers)]
        roles += [] if self.conditioned is None else [self.conditioned.name]
        for policy in self.policies:
            roles += [policy.member, policy.reference]
        for reward in rewards:
            roles += [reward.member, *([] if reward.reference is None else [reward.reference])]
        kept = {name: own for name, own in settings.items() if name in roles}
        return replace(self, rewards=rewards, settings=kept)


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

    def reference(
        self, name: str, settings: MemberSettings, reference: str, version: int | None = None
    ) -> str:
        """The member that ``reference`` means: the base, or a model that is held as ``settings`` are."""
        if reference == BASE:
            return BASE
        held = settings.model_dump(include={"device", "dtype", "chat_template", "rank"})
        own = MemberSettings(model=reference, **held)
        return self.share(_versioned(f"{name}.reference", version), own)


def _versioned(name: str, version: int | None) -> str:
    return name if version is None else f"{name}{VERSION_MARK}{version}"


def _identity(settings: MemberSettings) -> tuple[str | None, ...]:
    """What makes two models the same."""
    return settings.model, settings.device, settings.dtype, settings.chat_template, str(settings.rank)
