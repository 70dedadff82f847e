"""A response under way, and what each member still has to read of it."""

import math
from collections import abc
from dataclasses import dataclass, field

from server.engine.sampler import Draw


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the tokens of one response are drawn, and when it ends.

    Attributes:
        max_tokens: response tokens at most, the stop token included.
        temperature: 0 is greedy.
        top_p, top_k, min_p: truncation; 1, 0 and 0 are off.
        seed: any integer; same request and seed, same tokens.
        stop_token_ids: a token of these ends the response ("stop") and is its last token.
        logprobs: report the drawn token's log-prob under the mix and so many of the best; None reports nothing.

    Raises:
        ValueError: a value is outside its range; the message names it.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        checks = {
            "max_tokens": self.max_tokens >= 1,
            "temperature": math.isfinite(self.temperature) and self.temperature >= 0,
            "top_p": 0 < self.top_p <= 1,
            "top_k": self.top_k >= 0,
            "min_p": 0 <= self.min_p <= 1,
            "logprobs": self.logprobs is None or self.logprobs >= 0,
        }
        for name, fine in checks.items():
            if not fine:
                raise ValueError(f"{name} is out of range: {getattr(self, name)}")

    def draw(self, position: int) -> Draw:
        """How the token at ``position`` of the base's context is drawn."""
        return Draw(self.seed, position, self.temperature, self.top_p, self.top_k, self.min_p)


@dataclass(frozen=True, slots=True)
class SequenceRequest:
    """One response to make.

    Attributes:
        id: unique among the responses under way.
        prompts: member name → token ids of the prompt as THAT member reads it, the base's first; a member without one
            cannot be weighted in.
        mix: member name → weight of its logits; missing or 0: the member is not run.
    """

    id: str
    prompts: abc.Mapping[str, abc.Sequence[int]]
    mix: abc.Mapping[str, float]
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probs under the mixed distribution, before temperature: of the drawn token, and the best ``(token, logprob)``."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """What a step made for one response.

    ``index`` counts response tokens from 0. ``finish_reason`` is None while the response goes on, else "stop", "length",
    "abort" or "error"; with the last two ``token`` is -1, and ``error`` says what happened.
    """

    id: str
    index: int
    token: int
    finish_reason: str | None = None
    error: str | None = None
    logprobs: TokenLogprobs | None = None


@dataclass(slots=True)
class Context:
    """What ONE member reads for a sequence: its own prompt and the shared response; ``computed`` of it lies in its cache."""

    prompt: abc.Sequence[int]
    computed: int = 0


@dataclass(slots=True, eq=False)
class Sequence:
    """State of one response; owned by the scheduler's thread."""

    request: SequenceRequest
    mix: dict[str, float]
    contexts: dict[str, Context]
    response: list[int] = field(default_factory=list)
    preemptions: int = 0

    @classmethod
    def begin(cls, request: SequenceRequest) -> "Sequence":
        """A fresh sequence: nothing computed, nothing drawn."""
        contexts = {name: Context(list(prompt)) for name, prompt in request.prompts.items()}
        return cls(request, dict(request.mix), contexts)

    @property
    def id(self) -> str:
        """The request's id; also the owner's name in every cache."""
        return self.request.id

    @property
    def position(self) -> int:
        """Where the next token stands in the base's context. It keys the draw's noise, so that a fresh request on prompt +
        the tokens so far goes on as this one does."""
        return len(next(iter(self.contexts.values())).prompt) + len(self.response)

    @property
    def active(self) -> list[str]:
        """Members with a weight: those that have to read it."""
        return [name for name, weight in self.mix.items() if weight != 0]

    def total(self, member: str) -> int:
        """Tokens of ``member``'s context."""
        return len(self.contexts[member].prompt) + len(self.response)

    def pending(self, member: str) -> int:
        """Tokens ``member`` has not computed yet."""
        return self.total(member) - self.contexts[member].computed

    def tokens(self, member: str, start: int, stop: int) -> list[int]:
        """Tokens ``start`` to ``stop`` of ``member``'s context."""
        prompt = self.contexts[member].prompt
        if stop <= len(prompt):
            return list(prompt[start:stop])
        before = list(prompt[start:])
        return before + self.response[max(0, start - len(prompt)) : stop - len(prompt)]

    def finish_reason(self) -> str | None:
        """Why the response is over after its last token, if it is."""
        sampling = self.request.sampling
        if self.response[-1] in sampling.stop_token_ids:
            return "stop"
        return "length" if len(self.response) >= sampling.max_tokens else None
