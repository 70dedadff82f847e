"""What a step tells about one response."""

from collections import abc
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probs under the mixed distribution, before bias, penalties and temperature: of the token, and the best
    ``(token, logprob)``, best first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class TokenReport:
    """What guidance did to one token.

    Attributes:
        kl: KL(mix ‖ base) of the step in nats.
        base_logprob: of the token under the base alone.
        base_top: the base's favourite token.
        mix_top: the mix's favourite token; it differs from ``base_top`` where guidance flips the arg max.
        rewards: log-prob of the token under each reward that was weighted.
        scale: what ``max_kl`` left of the weights, 0 to 1; 1 where it does not bind.
    """

    kl: float
    base_logprob: float
    base_top: int
    mix_top: int
    rewards: abc.Mapping[str, float]
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """What a step made for one response.

    ``index`` counts response tokens from 0. ``finish_reason`` is None while the response goes on, else "stop", "length",
    "abort" or "error"; with the last two, and where ``max_tokens`` is 0, ``token`` is -1; ``error`` says what happened.
    ``prompt_logprobs`` comes with the first output: one entry per prompt token, None for the first, which nothing predicts.
    ``cached_tokens``: of the base's prompt, those that were not computed for this response because an earlier request had them;
    outputs that differ only in that are equal. So are those that differ in ``accepted_drafts`` and ``rejected_drafts``, the
    guesses of this response so far that were drawn, and those that were not.

    ``queued``, of a response's first output: seconds it was in the engine before its first chunk was planned; outputs that differ
    only in that are equal.

    ``scores``, of a request that only reads: by member, Σ log π over the tokens that were begun, or a scorer's value behind the
    last of them; ``token`` is -1 then too.
    """

    id: str
    index: int
    token: int
    finish_reason: str | None = None
    error: str | None = None
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    report: TokenReport | None = None
    cached_tokens: int = field(default=0, compare=False)
    accepted_drafts: int = field(default=0, compare=False)
    rejected_drafts: int = field(default=0, compare=False)
    scores: abc.Mapping[str, float] | None = None
    queued: float | None = field(default=None, compare=False)
