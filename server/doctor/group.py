"""Which process holds what, where a base is split over several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from server.config import Deployment, MemberSettings
from server.decoding import BASE
from server.doctor.capacity import Resident
from server.doctor.check import Check
from server.doctor.machine import Machine

if TYPE_CHECKING:
    from arm_models.loading import ModelSource


def check_group(deployment: Deployment, machine: Machine) -> list[Check]:
    """Whether every process has the device that it needs, were all of them on this machine; nothing where there is one only."""
    name, processes = "base.tensor_parallel", deployment.base.tensor_parallel
    graphics = len(machine.devices) - 1
    if processes == 1:
        return []
    if deployment.base.device == "cpu" and graphics:
        told = f"the base would be split over this machine's {graphics} GPUs: set base.device to cuda, or hide them"
        return [Check(name, f"{told} (CUDA_VISIBLE_DEVICES=)", "problem")]
    if deployment.base.device != "cpu" and graphics < processes:
        told = f"{processes} processes take a GPU each, and this machine has {graphics}"
        return [Check(name, f"{told}; on several machines torchrun starts them", "problem")]
    return [Check(name, f"{processes} processes, as if all were on this machine")]


def part_of(source: ModelSource, processes: int) -> ModelSource:
    """The base as one of ``processes`` loads it; every other source as it is."""
    return replace(source, ranks=processes) if source.name == BASE else source


def placed(
    member: Resident, settings: MemberSettings, before: Sequence[Resident], processes: int
) -> Resident:
    """``member`` as its ``processes`` hold it; ``before`` are those read before it, the base first. Its device ``cuda`` is each
    process's own.

    Raises:
        CheckpointError: it is an adapter on the base.
    """
    from arm_models.loading.checkpoint import open_checkpoint
    from arm_models.loading.split import on_a_split

    device = "cuda" if settings.device == "cuda" else member.device
    if member.name == BASE:
        return replace(member, device=device, place="split", parts=processes)
    backbone = member.facts.backbone
    if backbone is not None and any(
        one.name == BASE and one.facts.folder == backbone.folder for one in before
    ):
        raise on_a_split(open_checkpoint(member.name, str(member.facts.folder)), backbone.folder)
    return replace(member, device=device, place=settings.rank)


def held_by(rank: int, members: Sequence[Resident]) -> list[Resident]:
    """What the process ``rank`` holds of these, where it holds it."""
    return [
        replace(one, device=f"cuda:{rank}" if one.device == "cuda" else one.device)
        for one in members
        if one.place in ("split", "all", rank)
    ]
