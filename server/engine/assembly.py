"""From loaded models to members: who runs in one forward, and how much cache each gets.

models of one shape            one forward, each row through its own weights; those with a scalar head apart
adapters on one backbone       one forward, each row with its own adapter; the backbone itself among them
anything else                  a forward of its own, by transformers
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from arm_models.loading import Family, LoadedModel
from server.engine.attention.slab_layout import SlabLayouts
from server.engine.cache.context_cache import ContextCache
from server.engine.cache.kv_cache import BLOCK, KVCache, KVShape, RowStore, capacity_for
from server.engine.cache.paged_cache import PagedKVCache, PageStore
from server.engine.config import EngineConfig
from server.engine.cuda_graph import CudaRecorder
from server.engine.decoder import Adapters, Decoder, Lane, ModelWeights, collect, take_apart
from server.engine.member import Member, SelfTestError
from server.engine.paged_runner import PagedRunner
from server.engine.runner import PackedModel, Runner, RunnerLane
from server.engine.stock import StockModel

INVARIANT_ROWS = 4
"""Rows a matrix product of torch's own needs per thread to give each row the bits it has in any larger product; with fewer,
other code runs. Measured, and checked again at start (:meth:`Member.check_batch_invariance`)."""


NEGATIVE = "base.negative"
"""The base's second lane: what classifier-free guidance leads away from."""


MOST_RECORDED_ROWS = 256
"""Tokens of one member in a step that is recorded, unless more sequences are decoded side by side; drafts to verify are some."""


@dataclass(frozen=True, slots=True)
class Forward:
    """Models that run together, in the order of their lanes, and what runs them."""

    models: tuple[LoadedModel, ...]
    packed: PackedModel

    def members(
        self, sizes: dict[str, int], *, deterministic: bool = False, paged: bool = False
    ) -> list[Member]:
        """Members with ``sizes`` tokens of cache each, all in one store: of rows, or of pages."""
        multiple = _row_multiple(self.packed) if deterministic else 1
        own = [sizes[model.name] for model in self.models]
        caches, runner = (
            self._over_pages(own, multiple) if paged else self._over_rows(own, multiple, exact=deterministic)
        )
        return [Member(model, cache, runner) for model, cache in zip(self.models, caches, strict=True)]

    def _over_rows(
        self, sizes: Sequence[int], multiple: int, *, exact: bool
    ) -> tuple[Sequence[ContextCache], Runner]:
        store, device = RowStore(kv_shape(self.models[0])), self.models[0].device
        caches = [KVCache(store.shape, size, store) for size in sizes]
        layouts = SlabLayouts(caches, device, exact=exact)
        return caches, Runner(self.packed, self._lanes(), layouts, device, multiple)

    def _over_pages(self, sizes: Sequence[int], multiple: int) -> tuple[Sequence[ContextCache], Runner]:
        store, device = PageStore(kv_shape(self.models[0])), self.models[0].device
        caches = [PagedKVCache(store.shape, size, store) for size in sizes]
        return caches, PagedRunner(self.packed, self._lanes(), caches, device, multiple)

    def _lanes(self) -> list[RunnerLane]:
        return [RunnerLane(model.name, model.vocab_size, len(model.objectives)) for model in self.models]


def build_members(family: Family, config: EngineConfig, *, negative: bool = False) -> list[Member]:
    """Members of a family, base first, each tested against its plain forward before it may serve.

    ``negative``: the base is a member twice, on the same weights; as :data:`NEGATIVE` it reads prompts of its own, with its own
    share of the cache.

    Raises:
        SelfTestError: a model does not survive the engine's forward, or ``deterministic`` cannot be kept.
        UserError: a model that is to be run in 8 bits cannot be.
    """
    models = [family.base, *family.rewards]
    if negative:
        models.append(replace(family.base, name=NEGATIVE))
    sizes = {model.name: kv_tokens(models, model, config) for model in models}
    members: dict[str, Member] = {}
    for forward in forwards(models, deterministic=config.deterministic):
        for member in tested(forward, sizes, config):
            members[member.name] = member
    return [members[model.name] for model in models]


def build_more(models: Sequence[LoadedModel], config: EngineConfig, tokens: int) -> list[Member]:
    """Members with ``tokens`` of cache each that are to join an engine, tested as by :func:`build_members`; in any thread.

    They run in no forward of those who are there already, and on a GPU without recordings, which only the engine's thread may
    make.

    Raises:
        SelfTestError, UserError: as :func:`build_members`.
    """
    config = replace(config, cuda_graphs=False)
    sizes = {model.name: tokens for model in models}
    members: dict[str, Member] = {}
    for forward in forwards(models, deterministic=config.deterministic):
        members.update((member.name, member) for member in tested(forward, sizes, config))
    release_stock(members.values())
    return [members[model.name] for model in models]


def forwards(models: Sequence[LoadedModel], *, deterministic: bool = False) -> list[Forward]:
    """Who runs together.

    ``deterministic`` keeps adapters apart: together, the last bits of a row depend on who else is in the batch.
    """
    together: dict[object, list[tuple[LoadedModel, ...]]] = {}
    weights: dict[int, ModelWeights] = {}
    adapters: dict[int, Adapters] = {}
    stock: list[Forward] = []
    for lanes in _by_backbone(models):
        backbone = lanes[0].model
        if lanes[0].ranks > 1:  # its layers are parts, which transformers puts together
            stock.extend(Forward((lane,), StockModel(lane)) for lane in lanes)
            continue
        names = [lane.adapter for lane in lanes if lane.adapter is not None]
        collected = collect(backbone, names) if names and not deterministic else None
        taken = None
        if not names or collected is not None:
            taken = take_apart(backbone, lanes[0].vocab_size, quantize=lanes[0].quantize)
        if taken is None:
            stock.extend(Forward((lane,), StockModel(lane)) for lane in lanes)
            continue
        weights[id(backbone)] = taken
        if collected is not None:
            adapters[id(backbone)] = collected
        # Adapters know one backbone, so theirs is joined by no other.
        alike: object = id(backbone) if names else (lanes[0].scalar, taken.shape)
        together.setdefault(alike, []).append(lanes)
    return [_fused(groups, weights, adapters) for groups in together.values()] + stock


def release_stock(members: Iterable[Member]) -> None:
    """Give back the weights of linear layers that only transformers' own forward would read; it cannot run after that
    (:meth:`Member.plain_log_probs`)."""
    members = list(members)
    needed = {id(member.loaded.model) for member in members if isinstance(member.runner.model, StockModel)}
    for member in members:
        if id(member.loaded.model) in needed:
            continue
        for module in member.loaded.model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight = torch.nn.Parameter(module.weight.new_empty(0), requires_grad=False)


def _by_backbone(models: Iterable[LoadedModel]) -> list[tuple[LoadedModel, ...]]:
    """Models that share weights; the backbone itself before its adapters."""
    groups: dict[int, list[LoadedModel]] = {}
    for model in models:
        groups.setdefault(id(model.model), []).append(model)
    return [tuple(sorted(group, key=lambda one: one.adapter is not None)) for group in groups.values()]


def _fused(
    groups: Sequence[Sequence[LoadedModel]],
    weights: dict[int, ModelWeights],
    adapters: dict[int, Adapters],
) -> Forward:
    models = tuple(model for group in groups for model in group)
    lanes: list[Lane] = []
    for index, group in enumerate(groups):
        bare = sum(one.adapter is None for one in group)
        lanes.extend(
            Lane(index, None if one.adapter is None else place - bare) for place, one in enumerate(group)
        )
    taken = [weights[id(group[0].model)] for group in groups]
    return Forward(models, Decoder(taken, lanes, adapters.get(id(models[0].model))))


def tested(forward: Forward, sizes: dict[str, int], config: EngineConfig) -> list[Member]:
    """Members of a forward that have passed what they have to pass; by transformers one by one where only that keeps
    ``deterministic``."""
    paged = is_paged(forward.models[0].device, config)
    members = forward.members(sizes, deterministic=config.deterministic, paged=paged)
    runner = members[0].runner
    if isinstance(runner, PagedRunner):
        _record(runner, members, config)
    for member in members:
        member.self_test()
    if config.deterministic:
        try:
            for member in members:
                member.check_batch_invariance()
        except SelfTestError:
            if isinstance(forward.packed, StockModel):
                raise
            alone = [Forward((model,), StockModel(model)) for model in forward.models]
            return [member for one in alone for member in tested(one, sizes, config)]
    if isinstance(runner, PagedRunner):
        runner.warm_up()
    for member in members:
        member.cache.trim()
    return members


def is_paged(device: torch.device, config: EngineConfig) -> bool:
    """Whether members on ``device`` keep keys and values in pages. Slabs are faster where there is no kernel for pages."""
    return config.cache == "pages" or (config.cache == "auto" and device.type == "cuda")


def _record(runner: PagedRunner, members: Sequence[Member], config: EngineConfig) -> None:
    """On a GPU, let the runner of ``members`` replay its decode steps."""
    device = members[0].loaded.device
    if device.type != "cuda":
        return
    most = max(config.max_sequences, min(config.max_step_tokens, MOST_RECORDED_ROWS))
    longest = max(min(one.max_length, one.cache.num_blocks * BLOCK) for one in members)
    runner.record(most, longest, CudaRecorder(device) if config.cuda_graphs else None)


def _row_multiple(packed: PackedModel) -> int:
    """Packed products give a row the same bits whatever is beside it; torch's own do from a few rows on."""
    return INVARIANT_ROWS * torch.get_num_threads() if isinstance(packed, StockModel) else 1


def kv_shape(loaded: LoadedModel) -> KVShape:
    """What one token of this model costs in its cache. On the CPU keys and values are float32 whatever the weights are:
    attention in half precision is several times slower there."""
    dtype = torch.float32 if loaded.device.type == "cpu" else loaded.dtype
    return KVShape(loaded.num_layers, loaded.num_kv_heads, loaded.head_dim, dtype, loaded.device)


def kv_tokens(models: Sequence[LoadedModel], model: LoadedModel, config: EngineConfig) -> int:
    """Tokens of cache for ``model``: as configured, else as many as its device's share of memory and the limits allow.

    All models of one device get the same number of tokens, since they read the same responses.
    """
    if config.kv_tokens is not None:
        return config.kv_tokens
    per_token = sum(kv_shape(other).bytes_per_token for other in models if other.device == model.device)
    affordable = _cache_bytes(model.device, config) // per_token
    most = config.max_sequences * capacity_for(model.max_length)
    return max(BLOCK, min(affordable, most))


def _cache_bytes(device: torch.device, config: EngineConfig) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * config.gpu_memory_fraction)
    return config.cpu_cache_bytes
