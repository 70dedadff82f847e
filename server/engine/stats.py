"""What an engine tells about itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from server.engine.timings import EngineTimes


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine is doing; counters run from its start.

    ``prompt_tokens_computed``: tokens of prompts that the base ran; copies of what it ran for another response not counted.
    ``cache_usage``: share of each member's blocks in use, 0 to 1; what is kept of prompts is not in use.
    ``prefix_queries``: tokens of prompts the base was asked to read; ``prefix_hits``: those of them it had read before.
    ``draft_tokens``: guessed ahead; ``accepted_tokens``: those of them that were drawn.
    ``memory_faults``: steps that ran out of memory and were undone.
    ``forwards``: by member, forwards in which it read anything; ``tokens``: what it computed in them.
    ``times``: what steps have taken; None where nobody takes the time.
    """

    running: int
    waiting: int
    preemptions: int
    steps: int
    cache_usage: Mapping[str, float]
    prompt_tokens_computed: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    forwards: Mapping[str, int] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    memory_faults: int = 0
    times: EngineTimes | None = None
