"""Rewards come and go while answers are under way, each of which keeps those it began with.

put:     load and test beside the engine → into the engine → new requests are planned by it
then:    a member that no request can read with any more leaves the engine, and its memory is given back
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import ValidationError

from arm_models.errors import UserError
from server.access import KeyRing
from server.api.served import Served, Succession
from server.config import Deployment, RewardSettings
from server.errors import Conflict, InvalidRequest, NotFound, Unavailable, clip, shown_name
from server.garbage import look_everywhere
from server.joining import Joined, NoRoom, Part
from server.runtime import EngineLike, Runtime

T = TypeVar("T")

LOG = logging.getLogger("genarm")

_ABSOLUTE = re.compile(r"(?<![\w./-])/[^\s'\",;:]+")
"""Paths from the root."""


class RewardChanges:
    """Changes what is served, one change at a time; lives on the event loop.

    Args:
        succession: where new requests find what they are planned by.
        runtime: the one in use; raises Unavailable unless requests are taken.
        engine: the living engine; raises Unavailable where there is none.
        keys: whose ranges and presets are about what is served.
        is_fixed: this server is one of several that serve the same, so nothing may change here alone.
    """

    def __init__(
        self,
        succession: Succession,
        runtime: Callable[[], Runtime],
        engine: Callable[[], EngineLike],
        keys: KeyRing,
        *,
        is_fixed: bool = False,
    ) -> None:
        self._succession = succession
        self._runtime = runtime
        self._engine = engine
        self._keys = keys
        self._is_fixed = is_fixed
        self._busy = False
        self._version = 1
        self._leaving: dict[str, Part] = {}  # in the engine, and of no use to new requests
        succession.left = self._let_go

    @property
    def leaving(self) -> tuple[str, ...]:
        """Members that only requests under way still read with."""
        return tuple(sorted(self._leaving))

    async def put(self, name: str, given: Mapping[str, Any]) -> tuple[RewardSettings, bool]:
        """Adds the reward ``name``, or replaces the one of this name, which lends what is not ``given``; it is served when this
        returns: as it was declared, and whether it is new.

        Raises:
            InvalidRequest: names what is wrong: a field, a model that cannot be used.
            Conflict: another change is under way, the memory is not there, or nothing may change at run time.
            Unavailable: the server takes no requests (any more).
        """
        with self._alone():
            runtime, now = self._runtime(), self._succession.now
            settings, deployment, is_new = _declared(now.deployment, name, given)
            self._version += 1
            roster = now.roster.with_reward(settings, self._version)
            wanted = {
                member: own for member, own in roster.settings.items() if member not in now.roster.settings
            }
            gone = set(now.roster.settings) - set(roster.settings)
            beside = {member: part for member, part in runtime.parts.items() if member not in gone}

            def load() -> tuple[Joined, Runtime]:
                joined = runtime.join(wanted, beside)
                return joined, runtime.after(roster.labels, joined)

            LOG.info("reward %s: loading %s", name, clip(settings.model))
            try:
                joined, after = await _in_thread(load)
            except NoRoom as error:
                raise Conflict(_told(error, settings), code="no_room") from error
            except UserError as error:
                message, field = _told(error, settings), _field(error, settings)
                raise InvalidRequest(message, param=field, code="model_refused") from error
            self._runtime()  # the server may be draining by now
            await _done(self._engine().add_members(joined.members))
            self._follow(
                Served(deployment, roster, after), {member: runtime.parts[member] for member in gone}
            )
            LOG.info("reward %s: served from now on (%s)", name, after.fingerprint)
            return settings, is_new

    async def remove(self, name: str) -> None:
        """Takes a reward away from new requests.

        Raises:
            NotFound: there is none of this name.
            Conflict: another change is under way, the deployment or a key names the reward elsewhere, or nothing may change
                at run time.
            Unavailable: the server takes no requests (any more).
        """
        with self._alone():
            runtime, now = self._runtime(), self._succession.now
            _check_free(now.deployment, name, self._keys)
            rewards = [reward for reward in now.deployment.rewards if reward.name != name]
            roster = now.roster.without_reward(name)
            gone = set(now.roster.settings) - set(roster.settings)
            served = Served(now.deployment.with_rewards(rewards), roster, runtime.after(roster.labels))
            self._follow(served, {member: runtime.parts[member] for member in gone})
            LOG.info("reward %s: no longer served", name)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._is_fixed:
            raise Conflict(
                "Several replicas serve these rewards: they are changed for all of them by deploying anew.",
                code="replicas",
            )
        if self._busy:
            raise Conflict("Another change of the rewards is under way.", code="busy", retry_after=5)
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _follow(self, served: Served, gone: Mapping[str, Part]) -> None:
        self._succession.follow(served)
        self._keys.use(served.deployment)
        self._leaving.update(gone)
        self._let_go()

    def _let_go(self) -> None:
        """Has the engine forget the members that no request can read with any more."""
        over = {member: self._leaving[member] for member in self._leaving.keys() - self._succession.members}
        if not over:
            return
        for member in over:
            del self._leaving[member]
        try:
            removed = self._engine().remove_members(sorted(over))
        except Unavailable:
            return  # an engine that has ended holds nothing
        removed.add_done_callback(lambda future: _removed(future, over))


def _removed(future: Future[None], over: Mapping[str, Part]) -> None:
    """Told by the engine's thread, which holds nothing of them any more."""
    if error := future.exception():
        LOG.error("%s cannot be given back: %s", ", ".join(sorted(over)), error)
    elif any(part.model() is not None for part in over.values()):
        # Some hold themselves in cycles. Looking for these stops everything for a moment, so not without need.
        threading.Thread(target=look_everywhere, name="giving back", daemon=True).start()


def _declared(
    deployment: Deployment, name: str, given: Mapping[str, Any]
) -> tuple[RewardSettings, Deployment, bool]:
    """The reward, the deployment with it, and whether it is new there.

    Raises:
        InvalidRequest: names the field.
    """
    before = next((reward for reward in deployment.rewards if reward.name == name), None)
    held = deployment.base.model_dump(include={"device", "dtype"})
    # Whoever held it before: what comes to a server that runs is rank 0's.
    lent = {"name": name, **held} if before is None else {**before.model_dump(), "rank": 0}
    try:
        settings = RewardSettings.model_validate({**lent, **given})
        if before is None:
            rewards = [*deployment.rewards, settings]
        else:
            rewards = [settings if reward is before else reward for reward in deployment.rewards]
        return settings, deployment.with_rewards(rewards), before is None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        # What fields say together names its own; what the deployment says is about the name.
        message = first["msg"].removeprefix("Value error, ")
        field = next((str(part) for part in first["loc"]), message.partition(" ")[0].rstrip(":"))
        elsewhere = "default" if field.startswith("weight_ranges.") else "name"
        param = field if field in RewardSettings.model_fields else elsewhere
        raise InvalidRequest(f"Invalid '{param}': {message}.", param=param, code="invalid_value") from None


def _check_free(deployment: Deployment, name: str, keys: KeyRing) -> None:
    """Raises NotFound or Conflict where a reward cannot be taken away."""
    if name not in deployment.reward_names:
        raise NotFound(f"There is no reward '{clip(name)}'.", param="name")
    users = [f"presets.{preset}" for preset, weights in deployment.presets.items() if name in weights]
    users += ["weight_ranges"] if name in deployment.weight_ranges else []
    users += [f"the ranges of the key '{key}'" for key in keys.bounding(name)]
    if users:
        raise Conflict(f"The reward '{name}' is named by {', '.join(users)}.", param="name", code="in_use")


def _told(error: UserError, settings: RewardSettings) -> str:
    """The message for the administrator: of paths, no folders but those that they gave; a member by its name."""
    given = [text for text in (settings.model, settings.reference, settings.chat_template) if text]

    def known(path: re.Match[str]) -> str:
        text = path[0]
        is_given = any(text == one or text.startswith(f"{one}/") for one in given)
        return text if is_given else text.rstrip("/").rpartition("/")[2]

    member, colon, message = str(error).partition(": ")
    return f"{shown_name(member)}{colon}{_ABSOLUTE.sub(known, message)}"


def _field(error: UserError, settings: RewardSettings) -> str:
    """The field that a model's refusal is about."""
    member, _, message = str(error).partition(": ")
    if shown_name(member) == f"{settings.name}.reference":
        return "reference"
    named = ("device", "dtype", "chat template")
    said = (message or member).lower()
    return next((field.replace(" ", "_") for field in named if said.startswith(field)), "model")


async def _in_thread(work: Callable[[], T]) -> T:
    """The result of ``work()``, from a thread that does not keep the process from ending."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="joining", daemon=True).start()
    return await asyncio.wrap_future(future)


async def _done(future: Future[None]) -> None:
    """A command's end.

    Raises:
        Unavailable: the engine has ended.
    """
    try:
        await asyncio.shield(asyncio.wrap_future(future))
    except RuntimeError as error:
        raise Unavailable("The server cannot take requests now.", retry_after=5) from error
