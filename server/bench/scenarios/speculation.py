"""What are guesses worth, and what do they cost where they are worth nothing?"""

from collections.abc import Sequence
from dataclasses import replace

from server.bench.comparison import Comparison, Side, compare
from server.bench.setup import Setup
from server.bench.workload import output_tokens
from server.engine import SequenceRequest

WIDTHS = (1, 8)
"""Requests side by side, besides all of them."""


def speculation_pays(setup: Setup) -> Sequence[Comparison]:
    """With ``speculation: auto``, against the same requests without: one at a time, 8, and all at once."""
    widths = sorted({*WIDTHS, setup.workload.requests})
    return [_against_off(setup, width) for width in widths if width <= setup.workload.requests]


def _against_off(setup: Setup, width: int) -> Comparison:
    auto, off = setup.engine(speculation="auto"), setup.engine()
    built = setup.workload.build(auto.members["base"].vocab_size, setup.rewards, guided=True)
    chosen = built[: max(width, min(WIDTHS[-1], len(built)))]
    batches: list[list[SequenceRequest]] = [
        chosen[start : start + width] for start in range(0, len(chosen), width)
    ]
    tokens = output_tokens(chosen)
    ours = Side("auto", lambda: [auto.generate(batch) for batch in batches], tokens)
    peer = Side("off", lambda: [off.generate(batch) for batch in batches], tokens)
    found = compare(f"speculation, {width} at once", ours, peer, setup.runs, 0.98, setup.tick)
    stats = auto.stats()
    return replace(found, ours=f"{stats.accepted_tokens} of {stats.draft_tokens} guesses stood; auto")
