"""Requests to measure with: ragged prompts and response lengths, different weights for each, all from one seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from server.engine import SamplingParams, SequenceRequest


@dataclass(frozen=True, slots=True)
class Workload:
    """How many requests, and the ranges (inclusive, in tokens) their prompts and responses are drawn from."""

    requests: int = 32
    prompt: tuple[int, int] = (16, 256)
    response: tuple[int, int] = (16, 128)
    seed: int = 0

    @classmethod
    def of(cls, models: str, requests: int | None, seed: int) -> "Workload":
        """As much as the models are meant for: 32 requests with prompts of a chat turn or a few for the demo, else 64 with
        prompts of 16 to 256 tokens."""
        if models == "demo":
            return cls(32 if requests is None else requests, prompt=(16, 64), seed=seed)
        return cls(64 if requests is None else requests, seed=seed)

    def build(self, vocab_size: int, rewards: Sequence[str], *, guided: bool) -> list[SequenceRequest]:
        """The requests; ``guided`` gives every reward of every request a weight of its own, else all are 0."""
        return [self._request(number, vocab_size, rewards, guided) for number in range(self.requests)]

    def _request(self, number: int, vocab_size: int, rewards: Sequence[str], guided: bool) -> SequenceRequest:
        # Weights are drawn last and every request from a seed of its own: rewards change nothing else about it.
        rng = random.Random(f"{self.seed}/{number}")
        prompt = [rng.randrange(vocab_size) for _ in range(rng.randint(*self.prompt))]
        count = rng.randint(*self.response)
        weights = [round(rng.uniform(0.1, 2.0), 3) for _ in rewards]
        mix = {"base": 1.0} | {
            name: weight if guided else 0.0 for name, weight in zip(rewards, weights, strict=True)
        }
        prompts = dict.fromkeys(("base", *rewards), prompt)
        # No stop tokens: both sides write exactly the same number of tokens.
        sampling = SamplingParams(count, temperature=1.0, seed=number)
        return SequenceRequest(str(number), prompts, mix, sampling)


def output_tokens(requests: Sequence[SequenceRequest]) -> int:
    """Tokens that all responses together have."""
    return sum(request.sampling.max_tokens for request in requests)


def sample(requests: Sequence[SequenceRequest], count: int) -> list[SequenceRequest]:
    """``count`` of the requests, or all where there are fewer: as ragged as all of them, and the same ones every time.

    Ordered by the length of the response and cut into ``count`` equal parts, the middle one of each.
    """
    if count >= len(requests):
        return list(requests)
    ordered = sorted(requests, key=lambda request: request.sampling.max_tokens)
    return [ordered[(2 * part + 1) * len(ordered) // (2 * count)] for part in range(count)]
