"""One response to make: how its tokens are drawn, and what is read for it."""

import math
from collections import abc
from dataclasses import dataclass, field
from typing import Protocol

import torch

from server.engine.sampling.sampler import Draw


class Matcher(Protocol):
    """Which tokens may come next; one per response, used from the engine's thread only."""

    @property
    def ended(self) -> bool:
        """Whether the response is complete: nothing but a stop token could follow."""

    def allowed(self) -> torch.Tensor:
        """[vocab] bool on the CPU, True for tokens that may come next; stop tokens among them when the response may end."""

    def accept(self, token: int) -> None:
        """Goes on behind ``token``, which was allowed."""


Grammar = abc.Callable[[], Matcher]
"""Makes the matcher of one response."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the tokens of one response are drawn, and when it ends.

    Attributes:
        max_tokens: response tokens at most, the stop token included; 0 only reads the prompt (with ``prompt_logprobs``).
        temperature: 0 is greedy.
        top_p, top_k, min_p: truncation; 1, 0 and 0 are off.
        seed: any integer; same request and seed, same tokens.
        stop_token_ids: a token of these ends the response ("stop") and is its last token.
        min_tokens: response tokens before which no stop token is drawn.
        logit_bias: token → what is added to its mixed logit.
        presence_penalty, frequency_penalty: taken off the mixed logit of a token that the response holds, once, and for
            each time it does.
        repetition_penalty: divides the mixed logit of a token that the base's prompt or the response holds when it is
            positive and multiplies it otherwise; 1 is off.
        logprobs: report the drawn token's log-prob under the mix and so many of the best; None reports nothing.
        prompt_logprobs: the same for every token of the prompt, which all weighted members must read alike.

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
    min_tokens: int = 0
    logit_bias: abc.Mapping[int, float] = field(default_factory=dict)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        checks = {
            "max_tokens": self.max_tokens >= (0 if self.prompt_logprobs is not None else 1),
            "temperature": math.isfinite(self.temperature) and self.temperature >= 0,
            "top_p": 0 < self.top_p <= 1,
            "top_k": self.top_k >= 0,
            "min_p": 0 <= self.min_p <= 1,
            "min_tokens": self.min_tokens >= 0,
            "logit_bias": all(math.isfinite(bias) for bias in self.logit_bias.values()),
            "presence_penalty": math.isfinite(self.presence_penalty),
            "frequency_penalty": math.isfinite(self.frequency_penalty),
            "repetition_penalty": math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0,
            "logprobs": self.logprobs is None or self.logprobs >= 0,
            "prompt_logprobs": self.prompt_logprobs is None or self.prompt_logprobs >= 0,
        }
        for name, fine in checks.items():
            if not fine:
                raise ValueError(f"{name} is out of range: {getattr(self, name)}")

    @property
    def penalizes(self) -> bool:
        """Whether tokens that the context holds are treated differently."""
        penalties = self.presence_penalty, self.frequency_penalty, self.repetition_penalty
        return penalties != (0.0, 0.0, 1.0)

    def draw(self, position: int) -> Draw:
        """How the token at ``position`` of the base's context is drawn."""
        return Draw(self.seed, position, self.temperature, self.top_p, self.top_k, self.min_p)


Conditions = abc.Mapping[str, tuple[float, ...]]
"""Member name → the preference vector it is conditioned on."""


@dataclass(frozen=True, slots=True)
class CandidateScoring:
    """The ``k`` best of the allowed tokens are scored, log π(v) + Σ ``weights[scorer]`` · r(prompt, response, v); one is drawn.

    ARGS (arXiv 2402.01694), and PARGS (2406.07780) where the scorer was trained on prefixes. ``weights``: by scorer; one whose
    weight is missing or 0 is not run.

    Raises:
        ValueError: ``k`` is below 1 or a weight is not finite.
    """

    k: int
    weights: abc.Mapping[str, float]

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"candidates: k must be at least 1, not {self.k}")
        for name, weight in self.weights.items():
            if not math.isfinite(weight):
                raise ValueError(f"candidates: the weight of {name} is {weight}; it must be finite")


@dataclass(frozen=True, slots=True)
class SequenceRequest:
    """One response to make.

    Attributes:
        id: unique among the responses under way.
        prompts: member name → token ids of the prompt as THAT member reads it, the base's first; a member without one
            cannot be weighted in.
        mix: member name → weight of its logits; missing or 0: the member is not run.
        grammar: what the response must match, if anything.
        report: whether each token comes with what guidance did to it.
        max_kl: nats that a token's KL(mix ‖ base) may reach; beyond it that step's weights are scaled down. It and ``report``
            have the base read even where its weight is 0.
        salt: prompts are shared with requests of the same salt only.
        power: 0 adds up the weighted logits; else the members' weighted power mean, see
            :func:`~server.engine.sampling.mix.power_mean`. Its weights may not be negative, and ``max_kl`` has no meaning.
        begun: response tokens that are there already; ``max_tokens`` counts them, outputs begin behind them.
        parent: id of a response under way or held, whose contexts are copied as far as the tokens agree, for every member;
            computed again where it is gone.
        hold: when the response ends, its contexts stay in the caches, as long as nothing else needs the room, until the id
            is released.
        scores: members that only read: nothing is drawn, and the one output tells what each says of ``begun``; ``mix``,
            ``sampling`` and ``candidates`` are of no account.
        candidates: how the best tokens of the mix are scored before one is drawn; None where they are not. It excludes
            ``max_kl``.
        conditions: member name → the preference vector it is conditioned on, a number for each of its objectives.
        owner: who asks; where several do, they are served in turn (:mod:`~server.engine.fairness`).
    """

    id: str
    prompts: abc.Mapping[str, abc.Sequence[int]]
    mix: abc.Mapping[str, float]
    sampling: SamplingParams
    grammar: Grammar | None = None
    report: bool = False
    max_kl: float | None = None
    salt: str = ""
    power: float = 0.0
    begun: abc.Sequence[int] = ()
    parent: str | None = None
    hold: bool = False
    scores: tuple[str, ...] = ()
    conditions: abc.Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    candidates: CandidateScoring | None = None
    owner: str = ""

    @property
    def observes(self) -> bool:
        """Whether the base is read whatever its weight."""
        return self.report or self.max_kl is not None
