"""A fault put into an engine from outside: what is called for the k-th time after it was armed raises."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from server.engine import Engine
from server.engine.chunk import Chunk
from server.engine.sampling import drawing

POINTS = ("prefill", "decode", "mix", "sample")
"""Where: a forward that reads prompts, one that does not, the sum of the members' logits, the draw."""

SECRET = "/secret"
"""In every fault's words; no client may read it."""

Put = Callable[[Any, str, Any], None]
"""``setattr``, or one that a test takes back."""


class Fault:
    """A device that fails, or with ``memory`` one that runs out of it.

    Once :meth:`armed <arm>`, call number ``call`` raises; out of memory, so does every ``call``-th.
    """

    def __init__(self, point: str, call: int, *, memory: bool = False) -> None:
        if point not in POINTS:
            raise ValueError(f"point must be one of {', '.join(POINTS)}, not {point!r}")
        self.raised = 0
        self._point = point
        self._call = call
        self._memory = memory
        self._calls: int | None = None

    def arm(self) -> None:
        """Begin to count."""
        self._calls = 0

    def install(self, put: Put) -> None:
        """Put it into every engine of this process."""
        if self._point in ("prefill", "decode"):
            put(Engine, "_forward", self._forward(Engine._forward))
        else:
            name = {"mix": "mix_logits", "sample": "sample"}[self._point]
            put(drawing, name, self._called(getattr(drawing, name)))

    def _forward(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def failing(engine: Engine, chunks: Mapping[str, Sequence[Chunk]]) -> Any:
            reads = any(chunk.is_prompt for of_member in chunks.values() for chunk in of_member)
            if chunks and reads == (self._point == "prefill"):
                self._count()
            return forward(engine, chunks)

        return failing

    def _called(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*args: Any, **options: Any) -> Any:
            self._count()
            return function(*args, **options)

        return failing

    def _count(self) -> None:
        if self._calls is None:
            return
        self._calls += 1
        if self._memory and self._calls % self._call == 0:
            self.raised += 1
            raise torch.OutOfMemoryError(f"{SECRET}: out of memory")
        if not self._memory and self._calls == self._call:
            self.raised += 1
            raise RuntimeError(f"{SECRET}: a fault in the device")
