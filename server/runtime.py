"""Turns a deployment into loaded models, their tokenizers and an engine: the slow part of a start, free of
HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Protocol

from arm_models.errors import UserError
from server.config import Deployment, EngineSettings, MemberSettings
from server.decoding import BASE, NEGATIVE, Roster
from server.joining import Joined, Joining, Part, model_source, parts

if TYPE_CHECKING:
    from concurrent.futures import Future

    from arm_models.loading import Family, ModelSource
    from arm_models.loading.source import Kind
    from server.engine import (
        CandidateScoring,
        EngineConfig,
        EngineStats,
        Member,
        SequenceRequest,
        TokenOutput,
    )
    from server.engine.sharding.follower import Follower
    from server.engine.sharding.group import Place
    from server.engine.sharding.ranks import Ranks
    from server.text import ChatTokenizer


class EngineLike(Protocol):
    """What the server needs of ``server.engine.EngineThread``; every method may be called from any thread."""

    @property
    def alive(self) -> bool:
        """Whether it takes sequences."""

    def start(self) -> None:
        """Begins to step."""

    @property
    def stats(self) -> EngineStats:
        """What the engine was doing after its last step."""

    def stop(self, timeout: float | None = None) -> bool:
        """Ends the thread; False when that took longer than ``timeout`` seconds."""

    def add(self, *requests: SequenceRequest) -> Future[None]:
        """Takes all of the sequences or none; the future raises ValueError that names what is wrong."""

    def change(
        self,
        sequence_ids: Sequence[str],
        mix: Mapping[str, float],
        conditions: Mapping[str, tuple[float, ...]] | None = None,
        candidates: CandidateScoring | None = None,
    ) -> Future[dict[str, int]]:
        """Index of the first token under the new mix, by id; sequences that are over are left out."""

    def abort(self, sequence_id: str) -> Future[None]:
        """Drops a sequence; an unknown one is no error."""

    def has_begun(self, prefix: str) -> Future[bool]:
        """Whether any sequence under way whose id begins with ``prefix`` is no longer queued."""

    def release(self, sequence_ids: Sequence[str]) -> Future[None]:
        """Gives back what held sequences hold; unknown ones are no error."""

    def add_members(self, members: Sequence[Member]) -> Future[None]:
        """Lets sequences read with more members; the future raises ValueError where a name is taken."""

    def remove_members(self, names: Collection[str]) -> Future[None]:
        """Forgets members; the future raises ValueError where a sequence could still read with one."""


MakeEngine = Callable[[Callable[[list["TokenOutput"]], None], Callable[[BaseException], None]], EngineLike]
"""(on_outputs, on_death) → an engine that has not started; both callbacks come from the engine's thread."""


Join = Callable[[Mapping[str, MemberSettings], Mapping[str, Part]], Joined]
"""(what is to be loaded by member name, members whose caches stay) → members for the engine that runs; takes seconds to minutes,
in any thread. Raises UserError, as :class:`server.joining.Joining` does."""


@dataclass(frozen=True)
class Runtime:
    """What serving needs of the loaded models.

    Attributes:
        tokenizer: chats to every member's prompt, tokens to text.
        eos_ids: tokens that end an answer.
        max_context: tokens each member can read, by member name.
        vocab_size: token ids are below this.
        fingerprint: changes with the models or the versions that run them.
        make_engine: see ``MakeEngine``.
        parts: what else is to be known of each member.
        join: see ``Join``.
    """

    tokenizer: ChatTokenizer
    eos_ids: frozenset[int]
    max_context: Mapping[str, int]
    vocab_size: int
    fingerprint: str
    make_engine: MakeEngine
    parts: Mapping[str, Part]
    join: Join

    def after(self, labels: Mapping[str, str], joined: Joined | None = None) -> Runtime:
        """The same with other members, those of ``joined`` among them; may take seconds, in any thread.

        ``labels``: every member that serves from then on, and how clients know it. The base's second context stays.
        """
        from arm_models.loading import common_fingerprint

        known = self.parts if joined is None else {**self.parts, **joined.parts}
        contexts = self.max_context if joined is None else {**self.max_context, **joined.max_context}
        members = {*labels, NEGATIVE}
        contexts = {name: size for name, size in contexts.items() if name in members}
        return replace(
            self,
            tokenizer=self.tokenizer.changed(joined.tokenizers if joined else {}, members, contexts),
            max_context=contexts,
            fingerprint=common_fingerprint({label: known[name].imprint for name, label in labels.items()}),
            parts={name: part for name, part in known.items() if name in members},
        )


Load = Callable[[Deployment, Callable[[str], None]], Runtime]
"""Loads a deployment, telling its progress line by line; raises UserError when that is impossible."""


def load_runtime(
    deployment: Deployment,
    progress: Callable[[str], None],
    ranks: Ranks | None = None,
    over: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Runtime:
    """Loads every model of ``deployment`` and builds the engine over them; takes seconds to minutes.

    ``ranks``: the processes that share the base, of which this is rank 0; the others :func:`load_follower` at the same time.
    ``over``: see :class:`server.engine.EngineThread`.

    Raises:
        UserError: a model, template or limit cannot be used; names it.
    """
    # Imported here because torch takes seconds, during which the server already answers /health.
    from arm_models.loading import fingerprint
    from server.engine import BLOCK, Engine, EngineThread
    from server.text import ChatTokenizer

    config = _engine_config(deployment.engine)
    family, resident = load_members(deployment, progress, ranks)
    engine = Engine(resident, config)
    models = (family.base, *family.rewards)
    tokens = resident[0].cache.num_blocks * BLOCK
    return Runtime(
        tokenizer=ChatTokenizer({model.name: model.tokenizer for model in models}, engine.max_context),
        eos_ids=family.eos_ids,
        max_context=dict(engine.max_context),
        vocab_size=family.base.vocab_size,
        fingerprint=fingerprint(family),
        make_engine=lambda on_outputs, on_death: EngineThread(engine, on_outputs, on_death, over),
        parts=parts(resident),
        join=Joining(family.base, config, tokens, resident[0].max_context),
    )


def load_members(
    deployment: Deployment, progress: Callable[[str], None], ranks: Ranks | None = None
) -> tuple[Family, list[Member]]:
    """The models of ``deployment``, and the members that an engine has of them; arguments and errors as of
    :func:`load_runtime`.
    """
    from server.engine import SelfTestError, build_members, release_stock

    config, roster = _engine_config(deployment.engine), Roster.of(deployment)
    family = _load(deployment, roster, progress, ranks)
    progress("checking the cached forward of every model against the plain one")
    try:
        if ranks is None:
            members = build_members(family, config, negative=roster.negative)
            release_stock(members)
        else:
            from server.engine.sharding.group import build_group

            members = build_group(family, config, ranks, _places(roster), negative=roster.negative)
    except SelfTestError as error:
        raise UserError(str(error)) from None
    return family, members


def load_follower(deployment: Deployment, progress: Callable[[str], None], ranks: Ranks) -> Follower:
    """Loads what another process than rank 0 holds of ``deployment``.

    Raises:
        UserError: as :func:`load_runtime`.
    """
    from server.engine import SelfTestError
    from server.engine.sharding.group import build_follower

    config, roster = _engine_config(deployment.engine), Roster.of(deployment)
    family = _load(deployment, roster, progress, ranks)
    try:
        return build_follower(family, config, ranks, _places(roster), negative=roster.negative)
    except SelfTestError as error:
        raise UserError(str(error)) from None


def _load(
    deployment: Deployment, roster: Roster, progress: Callable[[str], None], ranks: Ranks | None
) -> Family:
    """The family, of which this process has all, or its share."""
    import torch

    from arm_models.loading import load_family
    from server.engine import ATTENTION, register_attention

    if ranks is None and deployment.base.tensor_parallel > 1:
        raise UserError("base.tensor_parallel: only `genarm serve` splits a base over processes")
    if deployment.threads is not None:
        torch.set_num_threads(deployment.threads)
    register_attention()
    if ranks is not None:
        _check_alike(deployment, roster, ranks)
    base, *others = sources(roster) if ranks is None else _share(sources(roster), roster, ranks)
    family = load_family(base, others, attention=ATTENTION, progress=progress)
    _check_objectives(roster, family)
    return family


def _check_alike(deployment: Deployment, roster: Roster, ranks: Ranks) -> None:
    """All processes mean the same, wherever the files are on their machines.

    Raises:
        UserError: names what they do not agree on, or a model that is not there.
    """
    from arm_models.loading.checkpoint import open_checkpoint

    settings = {name: (own.device, own.dtype, own.rank) for name, own in roster.settings.items()}
    versions = {name: metadata.version(name) for name in ("genarm", "torch", "transformers")}
    ranks.check_alike(
        {
            "the deployment": f"{settings} {deployment.engine!r} {roster.negative}",
            f"the versions of {', '.join(versions)}": str(versions),
        }
    )
    ranks.check_alike(
        {
            f"the files of {source.name}": open_checkpoint(source.name, source.path).digest
            for source in sources(roster)
        }
    )


def _share(all_sources: Sequence[ModelSource], roster: Roster, ranks: Ranks) -> list[ModelSource]:
    """What this process loads of each: the base's part, others whole or not at all."""
    places = _places(roster)
    base, *others = all_sources
    shared = [replace(base, ranks=ranks.size, device=_own(base.device, ranks))]
    for source in others:
        here = places.get(source.name, 0) in ("all", ranks.rank)
        shared.append(replace(source, here=here, device=_own(source.device, ranks)))
    return shared


def _own(device: str, ranks: Ranks) -> str:
    """``cuda`` is this process's own GPU, where the base is on GPUs; ``cuda:N`` any of the machine's."""
    return str(ranks.device) if device == "cuda" and ranks.device.type == "cuda" else device


def _places(roster: Roster) -> dict[str, Place]:
    """Which rank holds each member but the base."""
    return {name: own.rank for name, own in roster.settings.items() if name != BASE}


def sources(roster: Roster) -> list[ModelSource]:
    """Where every member comes from, the base first."""
    kinds: dict[str, Kind] = dict.fromkeys((scorer.name for scorer in roster.scorers), "scalar")
    if roster.conditioned is not None:
        kinds[roster.conditioned.name] = "conditioned"
    return [model_source(name, member, kinds.get(name, "causal")) for name, member in roster.settings.items()]


def _check_objectives(roster: Roster, family: Family) -> None:
    """The configuration and the conditioned reward mean the same objectives, in the same order."""
    special = roster.conditioned
    if special is None:
        return
    (trained,) = (member.objectives for member in family.rewards if member.name == special.name)
    if trained != special.objectives:
        raise UserError(
            f"conditioned.objectives: are {', '.join(special.objectives)}, but {special.name} was trained on "
            f"{', '.join(trained)}, in this order"
        )


def _engine_config(settings: EngineSettings) -> EngineConfig:
    from server.engine import EngineConfig

    try:
        return EngineConfig(**settings.model_dump())
    except ValueError as error:
        raise UserError(f"engine: {error}") from None
