"""A machine whose memory runs out now and then: for tests of what an engine does about it."""

import random
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from server.engine import Engine

IN_A_STEP = ("_forward", "_draw", "_read", "_keep", "_settle")
"""Methods of an engine that allocate; they may run out before or behind what they do."""


class Shortage:
    """Lets one call out of ``gaps[0]`` to ``gaps[1]`` that allocate in an engine's steps run out of memory.

    ``hits``: by the name of what ran out, how often.
    """

    def __init__(self, engine: Engine, rng: random.Random, gaps: tuple[int, int]) -> None:
        self.hits: Counter[str] = Counter()
        self._rng = rng
        self._gaps = gaps
        self._left = rng.randint(*gaps)
        for name in IN_A_STEP:
            self._watch(engine, name)
        self._watch(engine._scheduler, "_reserve")
        for member in engine.members.values():
            self._watch(member.cache, "copy")
        for store in {id(one.cache.store): one.cache.store for one in engine.members.values()}.values():
            if hasattr(store, "_grow"):
                self._watch(store, "_grow")

    def _watch(self, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left:
                return real(*args, **options)
            self._left = self._rng.randint(*self._gaps)
            self.hits[name] += 1
            if self._rng.random() < 0.5:
                real(*args, **options)
            raise torch.OutOfMemoryError(f"{name} ran out of memory")

        setattr(owner, name, call)


class Famine(TorchDispatchMode):
    """While it holds, operation number ``due`` of those that allocate a tensor runs out of memory; ``calls`` counts them."""

    def __init__(self, due: int | None) -> None:
        super().__init__()
        self.calls = 0
        self._due = due

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(result.alias_info is None for result in func._schema.returns):
            self.calls += 1
            if self.calls == self._due:
                raise torch.OutOfMemoryError(f"{func} ran out of memory")
        return func(*args, **(kwargs or {}))
