"""Everything that is looked at for one deployment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from arm_models.errors import CheckpointError, UserError
from server.config import Deployment
from server.decoding import BASE, NEGATIVE, Roster
from server.doctor.capacity import Capacity, Resident, capacity
from server.doctor.check import Check, Level
from server.doctor.group import check_group, held_by, part_of, placed
from server.doctor.machine import Device, Machine, this_machine
from server.doctor.model import NotHere, read_model
from server.doctor.packages import check_extras, check_packages
from server.doctor.surroundings import check_surroundings

if TYPE_CHECKING:
    from arm_models.loading import ModelSource

MARGIN = 512 << 20
"""Bytes that Python, torch and what a forward makes in between take on a CPU besides weights and caches; a rough figure."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found. ``members`` are those whose models could be read, ``capacities`` of the devices that they are on."""

    checks: tuple[Check, ...]
    machine: Machine
    members: tuple[Resident, ...] = ()
    capacities: tuple[Capacity, ...] = ()

    @property
    def problems(self) -> list[Check]:
        """What stands in the way of serving; empty where it could be served."""
        return [check for check in self.checks if check.level == "problem"]


def diagnose(declared: Callable[[], Deployment], look: Callable[[], Machine] = this_machine) -> Diagnosis:
    """Looks at all there is to ``declared()``; that it cannot be read is a problem like others.

    ``look``: at the machine; its time is that of importing torch.
    """
    checks, machine = [*check_packages(), *check_extras()], look()
    try:
        deployment = declared()
    except UserError as error:
        return Diagnosis((*checks, Check("deployment", str(error), "problem")), machine)
    processes = deployment.base.tensor_parallel
    checks += [Check("deployment", deployment.model), _threads(deployment, machine)]
    roster = Roster.of(deployment)
    checks += check_surroundings(deployment, roster)
    checks += check_group(deployment, machine)
    found, members = _members(roster, machine, processes)
    capacities = tuple(_capacities(members, machine, deployment))
    checks += [
        *found,
        *(check for one in capacities for check in _room(one, deployment.engine.max_sequences)),
        *(check for device in machine.devices for check in _together(device, capacities)),
    ]
    return Diagnosis(tuple(checks), machine, tuple(members), capacities)


def _members(roster: Roster, machine: Machine, processes: int) -> tuple[list[Check], list[Resident]]:
    """A check for every model, and the members whose models could be read."""
    from server.runtime import sources

    checks: list[Check] = []
    members: list[Resident] = []
    for source in sources(roster):
        name = f"model {source.name}"
        try:
            member = _member(part_of(source, processes), machine)
            if processes > 1:
                member = placed(member, roster.settings[source.name], members, processes)
        except CheckpointError as error:
            checks.append(Check(name, str(error), "problem"))
        except NotHere as error:
            checks.append(Check(name, str(error), "warning"))
        else:
            checks.append(Check(name, str(member.facts.folder)))
            members.append(member)
    if roster.negative and members and members[0].name == BASE:
        members.append(replace(members[0], name=NEGATIVE, again=True))
    return checks, members


def _member(source: ModelSource, machine: Machine) -> Resident:
    """The member of ``source`` as if one process held it."""
    facts = read_model(source)
    return Resident(
        name=source.name,
        facts=facts,
        device="cuda:0" if source.device == "cuda" else source.device,
        dtype=_dtype(source, machine) or (facts.backbone or facts).stored,
        scalar=source.kind == "scalar",
        conditioned=source.kind == "conditioned",
    )


def _dtype(source: ModelSource, machine: Machine) -> str | None:
    """What the weights of ``source`` are held in; None is what they are stored in.

    Raises:
        CheckpointError: its device is not there, or does not do that.
    """
    from arm_models.loading.source import resolve_dtype

    if machine.device(source.device) is None:
        there = ", ".join(device.name for device in machine.devices)
        raise CheckpointError(
            f"{source.name}: device {source.device!r} is not there; this machine has {there}"
        )
    if source.dtype != "auto":
        import torch

        resolve_dtype(source, torch.device("cpu" if source.device == "cpu" else "cuda"))
        return source.dtype
    return "float32" if source.device == "cpu" else None


def _threads(deployment: Deployment, machine: Machine) -> Check:
    """CPU threads of a forward; more than there are cores wait for each other."""
    processes = deployment.base.tensor_parallel
    shared = machine.threads if processes == 1 else max(1, machine.cores // processes)
    count = deployment.threads or shared
    level: Level = "warning" if count * processes > machine.cores else "ok"
    each = "" if processes == 1 else f" in each of {processes} processes"
    return Check("threads", f"{count} for a forward{each}, on {machine.cores} cores", level)


def _capacities(members: list[Resident], machine: Machine, deployment: Deployment) -> Iterator[Capacity]:
    processes = deployment.base.tensor_parallel
    for rank in range(processes):
        own = members if processes == 1 else held_by(rank, members)
        for device in machine.devices:
            held = [one for one in own if one.device == device.name]
            if held:
                yield capacity(device, held, deployment.engine, None if processes == 1 else rank)


def _room(one: Capacity, most: int) -> list[Check]:
    """Whether the models of a device fit, and with them the answers that are to be decoded side by side."""
    name, free = f"memory of {one.title}", gibibytes(one.device.free)
    if one.weights > one.device.free or not one.cache_tokens:
        return [Check(name, f"the weights take {gibibytes(one.weights)}, and {free} are free", "problem")]
    if one.device.name == "cpu" and one.spare < MARGIN:
        return [
            Check(
                name,
                f"weights and full caches take {gibibytes(one.weights + one.cache)}, and {free} are free: lower "
                "engine.cpu_cache_bytes or engine.kv_tokens",
                "warning",
            )
        ]
    longest = max(one.fits)
    if not one.fits[longest]:
        return [Check(name, f"no context of {longest:,} tokens fits into the cache", "warning")]
    fitting = min(most, one.fits[longest])
    return [Check(name, f"{fitting} of {most} answers fit at full length ({longest:,} tokens)")]


def _together(device: Device, capacities: Sequence[Capacity]) -> list[Check]:
    """Whether what several processes hold fits on a device that they share."""
    shared = [one for one in capacities if one.device == device]
    if len(shared) < 2:
        return []
    name, needed = f"memory of {device.name}", sum(one.weights + one.cache for one in shared)
    told = f"{len(shared)} processes take {gibibytes(needed)} with full caches, and {gibibytes(device.free)} are free"
    if sum(one.weights for one in shared) > device.free:
        return [Check(name, told, "problem")]
    if needed + MARGIN * len(shared) > device.free:
        return [Check(name, f"{told}: give caches less (engine)", "warning")]
    return [Check(name, told)]


def gibibytes(count: int) -> str:
    """Bytes as text."""
    return f"{count / (1 << 30):.2f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.1f} MiB"
