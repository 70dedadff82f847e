"""Completions to ask a server for: random prompts under random weights."""

import random
from collections.abc import Sequence
from typing import Any

from server.bench.workload import Workload


class Bodies:
    """Completions of random prompts, with weights of which none is 0: of ``rewards``, and as long as ``workload`` has them."""

    def __init__(self, workload: Workload, rewards: Sequence[str], rng: random.Random) -> None:
        self._workload = workload
        self._rewards = rewards
        self._rng = rng

    def make(
        self, tokens: int | None = None, prompt: int | str | None = None, **fields: Any
    ) -> dict[str, Any]:
        """One of ``tokens`` tokens behind a prompt of ``prompt`` tokens, or this text; as long as any of the workload unless
        told."""
        workload, rng = self._workload, self._rng
        length = rng.randint(*workload.response) if tokens is None else tokens
        size = rng.randint(*workload.prompt) if prompt is None else prompt
        return {
            "model": "bench",
            "prompt": size if isinstance(size, str) else [rng.randrange(5, 200) for _ in range(size)],
            "max_tokens": length,
            "min_tokens": length,
            "seed": rng.randrange(1000),
            "preferences": {name: round(rng.uniform(0.1, 2.0), 3) for name in self._rewards},
            **fields,
        }
