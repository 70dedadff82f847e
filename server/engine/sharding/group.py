"""From a family, of which every process has loaded its share, to members on rank 0 and a follower on each other rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from arm_models.loading import Family, LoadedModel
from server.engine.assembly import NEGATIVE, forwards, is_paged, kv_shape, kv_tokens, release_stock, tested
from server.engine.cache.context_cache import ContextCache
from server.engine.cache.kv_cache import KVCache
from server.engine.cache.paged_cache import PagedKVCache
from server.engine.config import EngineConfig
from server.engine.member import Member, SelfTestError
from server.engine.runner import RunnerLane
from server.engine.sharding.follower import Follower
from server.engine.sharding.journal import EVERYONE, Journal
from server.engine.sharding.leader import FINE, Led, LedRunner, MirroredCache
from server.engine.sharding.ranks import Ranks

Place = int | Literal["all", "split"]
"""Which rank holds a member; "all": each, whole; "split": each has its part."""

_MUCH = 1 << 62
"""Of what a rank has no part in it asks for no less."""


@dataclass(frozen=True, slots=True)
class _Share:
    """What every rank knows of all ``models``, and the ``members`` that this one holds. ``tokens`` of cache, and whether it is in
    ``pages``, are of each model by name."""

    models: tuple[LoadedModel, ...]
    members: Mapping[str, Member]
    tokens: Mapping[str, int]
    pages: Mapping[str, bool]


def build_group(
    family: Family,
    config: EngineConfig,
    ranks: Ranks,
    places: Mapping[str, Place],
    *,
    negative: bool = False,
) -> list[Member]:
    """On rank 0: members for an engine, base first, as :func:`server.engine.build_members` makes them; returns when every rank is
    ready.

    ``places``: of each model but the base by name; those that are not there are rank 0's.

    Raises:
        SelfTestError, UserError: as of :func:`server.engine.build_members`.
        RuntimeError: another rank is gone.
    """
    share = _share(family, config, ranks, places, negative)
    journal = Journal()
    members = dict(share.members)
    all_led: list[Led] = []
    numbers = {model.name: number for number, model in enumerate(share.models)}
    for place, models in _by_place(share.models, places).items():
        if place == 0:
            continue
        homes = _homes(place, ranks)
        led = {
            model.name: Led(
                number=numbers[model.name],
                cache=MirroredCache(journal, numbers[model.name], _cache(model, share), homes),
                local=share.members.get(model.name),
            )
            for model in models
        }
        all_led += led.values()
        lanes = [RunnerLane(model.name, model.vocab_size, len(model.objectives)) for model in models]
        runner = LedRunner(ranks, journal, led, lanes, together=place == "split", all_led=all_led)
        for model in models:
            members[model.name] = Member(model, led[model.name].cache, runner)
    return [members[model.name] for model in share.models]


def build_follower(
    family: Family,
    config: EngineConfig,
    ranks: Ranks,
    places: Mapping[str, Place],
    *,
    negative: bool = False,
) -> Follower:
    """On every other rank, at the same time: what does as rank 0 says. Arguments and errors as of :func:`build_group`."""
    share = _share(family, config, ranks, places, negative)
    numbered = {
        number: share.members[model.name]
        for number, model in enumerate(share.models)
        if model.name in share.members
    }
    return Follower(ranks, numbered)


def _share(
    family: Family, config: EngineConfig, ranks: Ranks, places: Mapping[str, Place], negative: bool
) -> _Share:
    """This rank's members, tested. Every rank does this at the same time and in the same order."""
    models = [family.base, *family.rewards]
    if negative:
        models.append(replace(family.base, name=NEGATIVE))
    held = [model for model in models if _is_held(_place(model, places), ranks.rank)]
    tokens, pages = _agreed(models, held, config, ranks)
    members: dict[str, Member] = {}
    for place, group in _by_place(held, places).items():
        # A recording would hold collectives, and every rank would have to make and replay it at the same time.
        limits = replace(config, cuda_graphs=False) if place == "split" else config
        for forward in forwards(group, deterministic=config.deterministic):
            members.update((member.name, member) for member in tested(forward, tokens, limits))
    release_stock(members.values())
    ranks.worst(FINE)  # all have come as far
    return _Share(tuple(models), members, tokens, pages)


def _agreed(
    models: Sequence[LoadedModel], held: Sequence[LoadedModel], config: EngineConfig, ranks: Ranks
) -> tuple[dict[str, int], dict[str, bool]]:
    """Tokens of every model's cache, as many as each rank that holds it can have, and whether it lies in pages.

    Raises:
        SelfTestError: ``deterministic`` is on and the ranks have unlike numbers of threads.
    """
    here = {model.name for model in held}
    own = [kv_tokens(held, model, config) if model.name in here else _MUCH for model in models]
    kinds = [int(is_paged(model.device, config)) if model.name in here else _MUCH for model in models]
    threads = torch.get_num_threads()
    told = ranks.least([*own, *kinds, threads, -threads])
    if config.deterministic and told[-2] != -told[-1]:
        raise SelfTestError(
            f"deterministic: the processes have {told[-2]} to {-told[-1]} threads; set threads, so that they have equally many"
        )
    count = len(models)
    names = [model.name for model in models]
    return (
        dict(zip(names, told[:count], strict=True)),
        {name: bool(kind) for name, kind in zip(names, told[count : 2 * count], strict=True)},
    )


def _place(model: LoadedModel, places: Mapping[str, Place]) -> Place:
    return "split" if model.ranks > 1 else places.get(model.name, 0)


def _is_held(place: Place, rank: int) -> bool:
    return place in ("split", "all", rank)


def _by_place(models: Sequence[LoadedModel], places: Mapping[str, Place]) -> dict[Place, list[LoadedModel]]:
    """Who is held where; the base, which all test together, first on every rank."""
    by_place: dict[Place, list[LoadedModel]] = {}
    for model in models:
        by_place.setdefault(_place(model, places), []).append(model)
    return by_place


def _homes(place: Place, ranks: Ranks) -> tuple[int, ...]:
    if place == "split":
        return (EVERYONE,)
    return tuple(range(ranks.size)) if place == "all" else (int(place),)


def _cache(model: LoadedModel, share: _Share) -> ContextCache:
    """Rank 0's own, or the books of one that another rank has."""
    local = share.members.get(model.name)
    if local is not None:
        return local.cache
    shape, tokens = kv_shape(model), share.tokens[model.name]
    return PagedKVCache(shape, tokens) if share.pages[model.name] else KVCache(shape, tokens)
