"""Decode steps at one batch size and one length of context, nothing else going on."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from server.engine import Engine, SamplingParams, SequenceRequest


@dataclass(slots=True)
class Steady:
    """``batch`` responses under way in ``engine``, all with the same prompt and weights.

    Reading the prompt is no part of what is timed: it is read once for all of them, or not at all where the engine has kept it.

    Args:
        engine: one with nothing under way and room for all of them.
        batch: responses side by side.
        context: tokens in each context behind the last of ``steps``.
        steps: that will be timed.
        mix: weight by member.

    Raises:
        ValueError: ``context`` has no room for a prompt and the steps, or is more than a member can hold.
    """

    engine: Engine
    batch: int
    context: int
    steps: int
    mix: Mapping[str, float]
    _lead: int = field(default=0, init=False)

    def begin(self) -> None:
        """Read the prompt and let every response draw tokens until all of them decode."""
        # Two tokens ahead: the one each draws with the prompt, and a step that is not timed.
        length = self.context - self.steps - 2
        if length < 1:
            raise ValueError(f"a context of {self.context} tokens has no room for {self.steps} steps")
        prompt = prompt_of(length, self.engine)
        limit = min(self.engine.max_context[name] for name in self.mix)
        requests = [
            SequenceRequest(
                f"steady/{number}",
                dict.fromkeys(self.mix, prompt),
                self.mix,
                SamplingParams(limit - length, temperature=1.0, seed=number),
            )
            for number in range(self.batch)
        ]
        self.engine.add(*requests)
        drawn: set[str] = set()
        while len(drawn) < self.batch:
            drawn |= {output.id for output in self.engine.step()}
        self.engine.step()

    def run(self, steps: int) -> list[float]:
        """Seconds of each of so many steps, per token of one response: a step that draws two for all counts half."""
        synchronise(self.engine)
        seconds, tokens = [], 0
        for _ in range(steps):
            started = time.perf_counter()
            tokens += len(self.engine.step())
            seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
        synchronise(self.engine)
        seconds[-1] += time.perf_counter() - started
        share = steps * self.batch / tokens
        return [second * share for second in seconds]

    def end(self) -> None:
        """Leave the engine with nothing under way."""
        for number in range(self.batch):
            self.engine.abort(f"steady/{number}")


def prompt_of(length: int, engine: Engine) -> list[int]:
    """The first ``length`` tokens of one random text, so that a shorter prompt begins a longer one."""
    vocab = min(member.vocab_size for member in engine.members.values())
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, vocab, (max(length, 8192),), generator=generator).tolist()[:length]


def synchronise(engine: Engine) -> None:
    """Wait until every device has done what it was told to."""
    for device in {member.cache.shape.device for member in engine.members.values()}:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
