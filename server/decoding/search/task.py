"""What one search is to answer, resolved: which members draw, which score, and what ends the answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from server.decoding.search.action import Message, Prompts

if TYPE_CHECKING:
    from server.engine import Grammar, SamplingParams

Watch = Callable[[], Callable[[int], bool]]
"""Makes what reads a text token by token and says when a stop string is complete."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Who does what in a search.

    Attributes:
        mix: member weights that responses are drawn from.
        score: weight of each member's score; a causal member's is Σ log π over the response.
        policy: the member that makes rollouts.
    """

    mix: Mapping[str, float]
    score: Mapping[str, float]
    policy: str = "base"

    @property
    def members(self) -> tuple[str, ...]:
        """Every member that reads, the base first."""
        named = [name for weights in (self.mix, self.score) for name, weight in weights.items() if weight]
        return tuple(dict.fromkeys(("base", *named, self.policy)))


@dataclass(frozen=True, slots=True)
class Chat:
    """The conversation behind the prompts, where there is one, and how tokens read as text."""

    messages: Sequence[Message]
    decode: Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Task:
    """One request as a search sees it.

    Attributes:
        prompts: token ids by member name, for each of ``roles.members``.
        sampling: how an answer is drawn and when it ends; its seed is the search's.
        parameters: the method's own.
        max_context: tokens each member can read.
        chat: needed where instructions are rewritten.
        watch: see :data:`Watch`; None where there are no stop strings.
        grammar, report, salt, owner: as in ``SequenceRequest``.
    """

    prompts: Prompts
    sampling: SamplingParams
    parameters: Any
    roles: Roles
    max_context: Mapping[str, int] = field(default_factory=dict)
    chat: Chat | None = None
    watch: Watch | None = None
    grammar: Grammar | None = None
    report: bool = False
    salt: str = ""
    owner: str = ""

    @property
    def max_tokens(self) -> int:
        """Tokens an answer may have."""
        return self.sampling.max_tokens

    def sampled(self, number: int, max_tokens: int | None = None) -> SamplingParams:
        """How the ``number``-th response of this search is drawn: the first with the search's own seed."""
        limit = self.max_tokens if max_tokens is None else max_tokens
        return replace(self.sampling, seed=candidate_seed(self.sampling.seed, number), max_tokens=limit)

    def room(self, prompts: Prompts) -> int:
        """Tokens that the tightest of these contexts leaves behind ``prompts``; at most an answer's where nothing is known."""
        left = [
            self.max_context[name] - len(prompt)
            for name, prompt in prompts.items()
            if name in self.max_context
        ]
        return min(left, default=self.max_tokens)


def candidate_seed(seed: int, number: int) -> int:
    """The seed of response ``number`` of a search: its own for the first, then ones that no other search of the request has."""
    if number == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/candidate/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
