"""Members that join those that serve: loaded, checked and tested beside them, in any thread; free of HTTP."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arm_models.errors import UserError
from server.config import MemberSettings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from arm_models.loading import LoadedModel, ModelSource
    from arm_models.loading.source import Kind
    from server.engine import EngineConfig, Member

WHILE_LOADING = 2
"""Times its weights that a model takes until it has passed its test: as they are read, and as they are run."""


class NoRoom(UserError):
    """The memory that a model needs is not there."""


@dataclass(frozen=True)
class Part:
    """What a server knows of a member besides the engine: ``imprint`` goes into the fingerprint, ``cache_bytes`` on ``device`` is
    what its cache may take. ``model`` is a weak reference: None once the model is gone from memory.
    """

    imprint: str
    cache_bytes: int
    device: str
    model: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Joined:
    """Members ready to be added to an engine, and of each what else serving needs."""

    members: tuple[Member, ...]
    tokenizers: Mapping[str, PreTrainedTokenizerBase]
    max_context: Mapping[str, int]
    parts: Mapping[str, Part]


class Joining:
    """Loads members for an engine that runs.

    Args:
        base: whose vocabulary they must have.
        config: the engine's.
        tokens: the base's cache; the others have as much, since all read the same responses.
        context: tokens that the base can read.
    """

    def __init__(self, base: LoadedModel, config: EngineConfig, tokens: int, context: int) -> None:
        self._base = base
        self._config = config
        self._tokens = tokens
        self._context = context

    def __call__(self, settings: Mapping[str, MemberSettings], beside: Mapping[str, Part]) -> Joined:
        """The members of ``settings``, by name; ``beside`` are those whose caches have to fit beside theirs.

        Raises:
            NoRoom: the weights or the cache do not fit.
            UserError: a model cannot be used; the message begins with its member's name.
        """
        from arm_models.loading import load_more
        from server.engine import ATTENTION, SelfTestError, build_more

        sources = [model_source(name, own) for name, own in settings.items()]
        _check_weights(sources)
        loaded = load_more(self._base, sources, attention=ATTENTION)
        tokens = self._cache_tokens(loaded, beside)
        try:
            members = build_more(loaded, self._config, tokens)
        except SelfTestError as error:
            raise UserError(str(error)) from None
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise NoRoom(f"{sources[0].name}: it does not fit into the memory that is left") from None
        return Joined(
            members=tuple(members),
            tokenizers={one.name: one.tokenizer for one in loaded},
            max_context={member.name: member.max_context for member in members},
            parts=parts(members),
        )

    def _cache_tokens(self, loaded: Sequence[LoadedModel], beside: Mapping[str, Part]) -> int:
        """Tokens of cache for each: as many as the base has, or fewer where there is no room for so many, but a longest context.

        It is promised as a whole, as at the start, though on a CPU memory is taken as it is needed.
        """
        from server.engine import capacity_for, kv_shape

        tokens = self._tokens
        for device in {one.device for one in loaded}:
            own = [one for one in loaded if one.device == device]
            price = sum(kv_shape(one).bytes_per_token for one in own)
            left, setting = self._room(device, beside)
            needed = max(capacity_for(min(one.max_length, self._context)) for one in own)
            if needed * price > left:
                raise NoRoom(
                    f"{own[0].name}: to cache one longest context of {needed} tokens takes {needed * price} bytes on "
                    f"{device}; {max(left, 0)} are left of {setting}"
                )
            tokens = min(tokens, left // price)
        return tokens

    def _room(self, device: torch.device, beside: Mapping[str, Part]) -> tuple[int, str]:
        """Bytes left for caches on ``device``, and the setting that they follow from."""
        from arm_models.loading import free_bytes

        free = free_bytes(device)
        if self._config.kv_tokens is not None:
            return sys.maxsize if free is None else free, "the memory"
        if device.type == "cuda":
            return int((free or 0) * self._config.gpu_memory_fraction), "engine.gpu_memory_fraction"
        taken = sum(part.cache_bytes for part in beside.values() if part.device == str(device))
        return self._config.cpu_cache_bytes - taken, "engine.cpu_cache_bytes"


def parts(members: list[Member]) -> dict[str, Part]:
    """What is to be known of ``members`` once they are the engine's."""
    from arm_models.loading import imprint

    return {
        member.name: Part(
            imprint(member.loaded),
            member.cache_bytes,
            str(member.loaded.device),
            weakref.ref(member.loaded.model),
        )
        for member in members
    }


def model_source(name: str, settings: MemberSettings, kind: Kind = "causal") -> ModelSource:
    """What is to be loaded as the member ``name``."""
    from arm_models.loading import ModelSource

    return ModelSource(
        name=name,
        path=settings.model,
        device=settings.device,
        dtype=settings.dtype,
        chat_template=settings.chat_template,
        kind=kind,
    )


def _check_weights(sources: list[ModelSource]) -> None:
    """Before anything is read: a server that is killed for the memory it takes answers nobody."""
    from arm_models.loading import free_bytes, weight_bytes
    from arm_models.loading.source import resolve_device

    needed: dict[str, int] = {}
    for source in sources:
        device = resolve_device(source)
        needed[str(device)] = needed.get(str(device), 0) + WHILE_LOADING * weight_bytes(source)
        left = free_bytes(device)
        if left is not None and needed[str(device)] > left:
            raise NoRoom(
                f"{source.name}: loading it takes {needed[str(device)]} bytes of memory on {device}; {left} are left"
            )


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
