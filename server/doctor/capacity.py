"""What the models of a device take of its memory, and how many answers of which length fit beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from server.doctor.machine import Device
from server.doctor.model import BYTES, ModelFacts

if TYPE_CHECKING:
    from server.config import EngineSettings

LENGTHS = (256, 1024, 4096, 16384, 65536)
"""Contexts, prompt and answer together, of which it is told how many fit; that of the models is told besides."""

GRAPHICS = "cuda"


@dataclass(frozen=True)
class Resident:
    """A member as it would be held: ``facts`` of its model, its ``device`` and ``dtype`` there.

    ``conditioned``: an adapter that is put on its backbone last. ``again``: a second context of the same model, which has a
    cache of its own and no weights. ``place``: which process holds it, where several share a base: one of them, each ("all"), or
    each a part ("split"), one of ``parts``.
    """

    name: str
    facts: ModelFacts
    device: str
    dtype: str
    scalar: bool = False
    conditioned: bool = False
    again: bool = False
    place: int | Literal["all", "split"] = 0
    parts: int = 1

    @property
    def kv_dtype(self) -> str:
        """What its cache is held in."""
        return self.dtype if self.device.startswith(GRAPHICS) else "float32"

    @property
    def kv_bytes(self) -> int:
        """Bytes of its cache for a token, of its part where it is split."""
        return self.facts.kv_values * BYTES[self.kv_dtype] // self.parts


@dataclass(frozen=True)
class Capacity:
    """What fits on ``device``.

    Attributes:
        members: their names.
        weights: bytes of their models, one copy of what they share.
        cache_tokens: tokens of each one's cache; 0 where there is no room for any.
        cache: bytes of all their caches, when they are full.
        fits: tokens of a context → contexts of that length which fit at once, for lengths that every member reads.
        rank: of the process that this is of; None where there is one only.
    """

    device: Device
    members: tuple[str, ...]
    weights: int
    cache_tokens: int
    cache: int
    fits: dict[int, int]
    rank: int | None = None

    @property
    def title(self) -> str:
        """What it is of."""
        return self.device.name if self.rank is None else f"{self.device.name}, rank {self.rank}"

    @property
    def spare(self) -> int:
        """Bytes of free memory beyond weights and full caches; below 0 where that is not enough."""
        return self.device.free - self.weights - self.cache


def capacity(
    device: Device, members: Sequence[Resident], settings: EngineSettings, rank: int | None = None
) -> Capacity:
    """What fits on ``device`` beside ``members``, which are all that are held there, by the process ``rank``."""
    weights = weights_bytes(members)
    tokens = [_tokens(device, one, members, weights, settings) for one in members]
    longest = min(one.facts.max_length for one in members)
    lengths = sorted({length for length in LENGTHS if length < longest} | {longest})
    paged = settings.cache == "pages" or (settings.cache == "auto" and device.name.startswith(GRAPHICS))
    return Capacity(
        device=device,
        members=tuple(one.name for one in members),
        weights=weights,
        cache_tokens=min(tokens),
        cache=sum(count * one.kv_bytes for count, one in zip(tokens, members, strict=True)),
        fits={length: min(tokens) // _row(length, paged=paged) for length in lengths},
        rank=rank,
    )


def weights_bytes(members: Sequence[Resident]) -> int:
    """Bytes of the models of one device: adapters share a backbone with each other and with a full model, full models share
    nothing, as ``arm_models.loading.family`` loads them.
    """
    whole = 0
    copies: list[tuple[object, bool]] = []  # what a copy is of, and whether a full member has it
    for one in sorted(members, key=lambda one: one.conditioned):
        if one.again:
            continue
        model = one.facts.backbone or one.facts
        kind = (model.folder, one.dtype, one.scalar)
        full = one.facts.backbone is None
        free = next((at for at, (of, has) in enumerate(copies) if of == kind and not (full and has)), None)
        if free is None:
            whole += model.values.held_as(one.dtype) // one.parts
            copies.append((kind, full))
        elif full:
            copies[free] = kind, True
        if not full:
            # On a backbone in 8 bits an adapter stays as it is.
            whole += one.facts.values.held_as("float32" if one.dtype == "int8" else one.dtype)
    return whole


def _tokens(
    device: Device, member: Resident, members: Sequence[Resident], weights: int, settings: EngineSettings
) -> int:
    """Tokens of one member's cache, as ``server.engine.assembly.kv_tokens`` gives it."""
    from server.engine.cache.kv_cache import BLOCK, capacity_for

    if settings.kv_tokens is not None:
        return settings.kv_tokens
    if device.name.startswith(GRAPHICS):
        room = int((device.free - weights) * settings.gpu_memory_fraction)
    else:
        room = settings.cpu_cache_bytes
    affordable = max(0, room) // sum(one.kv_bytes for one in members)
    if affordable < BLOCK and device.name.startswith(GRAPHICS):
        return 0
    return max(BLOCK, min(affordable, settings.max_sequences * capacity_for(member.facts.max_length)))


def _row(length: int, *, paged: bool) -> int:
    """Tokens of cache that a context of this length takes."""
    from server.engine.cache.kv_cache import BLOCK, capacity_for

    return -(-length // BLOCK) * BLOCK if paged else capacity_for(length)
