"""A machine that nobody has measured, by its data sheet: steps take as long as the slower of reading memory and multiplying.

Every number is an assumption, given by whoever asks; what comes of it says so wherever it is told. CPU beside the steps is what
was measured: that is the same server's.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

from server.simulation.cost import StepSample
from server.simulation.limits import BLOCK, Limits
from server.simulation.load import MemberLoad
from server.simulation.measured import Measured

CONTEXTS = (256, 1024, 4096)
"""Tokens of context in made-up steps."""


@dataclass(frozen=True, slots=True)
class Chip:
    """An accelerator.

    Attributes:
        bandwidth: bytes of its memory that it reads a second.
        flops: multiplications and additions a second, in the models' numbers.
        memory: bytes.
        reached: share of both that is assumed to be reached.
        launch: seconds of a forward in which neither is.
        filled: share of the memory for weights and caches.

    Raises:
        ValueError: a number is out of range.
    """

    bandwidth: float
    flops: float
    memory: float
    reached: float
    launch: float
    filled: float = 0.8

    def __post_init__(self) -> None:
        for name in ("bandwidth", "flops", "memory"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"--{name} must be above 0, not {getattr(self, name):g}")
        if not 0 < self.reached <= 1 or not 0 < self.filled <= 1:
            raise ValueError(f"--reached must be above 0 and at most 1, not {self.reached:g}")
        if not 0 <= self.launch < math.inf:
            raise ValueError(f"--launch must not be negative, not {self.launch:g}")


@dataclass(frozen=True, slots=True)
class Weights:
    """A member: its ``parameters``, of which a token is multiplied with ``multiplied``; ``kv``: numbers of its cache for a token;
    ``attention``: multiplications and additions for a token and one of context; each number has ``width`` bytes."""

    parameters: float
    multiplied: float
    kv: float
    attention: float
    width: int = 2

    @classmethod
    def of(
        cls, layers: int, hidden: int, heads: int, kv_heads: int, head: int, intermediate: int, vocab: int
    ) -> "Weights":
        """Of a Llama with a head of its own."""
        layer = 2 * hidden * heads * head + 2 * hidden * kv_heads * head + 3 * hidden * intermediate
        multiplied = layers * layer + vocab * hidden
        return cls(
            multiplied + vocab * hidden, multiplied, 2 * layers * kv_heads * head, 4 * layers * heads * head
        )

    def seconds(self, load: MemberLoad, chip: Chip) -> float:
        """Of a forward."""
        rate, speed = chip.bandwidth * chip.reached, chip.flops * chip.reached
        products = max(self.width * self.multiplied / rate, 2 * self.multiplied * load.tokens / speed)
        cache = self.width * self.kv * load.attended / rate
        return chip.launch + products + cache + self.attention * load.read / speed


def assume(
    chip: Chip, members: Sequence[Weights], places: int, measured: Measured, about: dict[str, Any]
) -> Measured:
    """As if such a machine had been measured, with ``places`` in the batch; CPU beside the steps and what is there once as
    ``measured``.

    Args:
        members: the base, then as many as ``measured`` has rewards; these are alike.

    Raises:
        ValueError: the weights do not fit, or one context of the traffic does not.
    """
    room = chip.memory * chip.filled - sum(one.width * one.parameters for one in members)
    tokens = int(room / sum(one.width * one.kv for one in members))
    if tokens < BLOCK:
        raise ValueError(f"--memory: {chip.memory:g} bytes are too few for the models")
    limits = Limits(
        tokens,
        places,
        max_step_tokens=max(512, places),
        max_queue=measured.limits.max_queue,
        cache="pages",
    )
    samples = [StepSample(load, _seconds(load, members, chip)) for load in _loads(len(members), limits)]
    Random(0).shuffle(samples)
    machine = (
        f"assumed, not measured: {chip.bandwidth:g} bytes/s, {chip.flops:g} FLOP/s and {chip.memory:g} bytes; "
        f"{chip.reached:g} of the speeds reached, {chip.launch:g} s more a forward"
    )
    kept = {name: measured.about[name] for name in ("traffic",) if name in measured.about}
    return replace(
        measured,
        about={**about, **kept, "machine": machine, "assumed": asdict(chip), "off_cpu": 0.0},
        limits=limits,
        steps=samples[::2],
        checks=samples[1::2],
        beside=(1.0,),
        cores=1,
    )


def _seconds(load: Sequence[MemberLoad], members: Sequence[Weights], chip: Chip) -> float:
    return sum(one.seconds(own, chip) for own, one in zip(load, members, strict=True) if own.tokens)


def _loads(members: int, limits: Limits) -> list[list[MemberLoad]]:
    """Few and many that decode, with and without prompts beside them, read by the base alone and by all."""
    rows = sorted({min(1 << power, limits.max_sequences) for power in range(12)})
    chunk, found = limits.prefill_chunk, []
    for readers in (1, members):
        for count in rows:
            for context in CONTEXTS:
                for chunks in range((limits.max_step_tokens - count) // chunk + 1):
                    own = MemberLoad(count + chunks * chunk, count, count * context, chunks * chunk * context)
                    found.append([own if place < readers else MemberLoad() for place in range(members)])
    return found
