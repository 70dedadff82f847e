"""A response under way, and what each member still has to read of it."""

import math
from collections import abc
from dataclasses import dataclass, field
from typing import Protocol

import torch

from server.engine.sampling.penalties import History
from server.engine.sampling.sampler import Draw
from server.engine.speculation.drafting import Drafting


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

    @property
    def observes(self) -> bool:
        """Whether the base is read whatever its weight."""
        return self.report or self.max_kl is not None


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


@dataclass(slots=True)
class Context:
    """What ONE member reads for a sequence: its own prompt and the shared response; ``computed`` of it lies in its cache."""

    prompt: abc.Sequence[int]
    computed: int = 0


@dataclass(slots=True, eq=False)
class Sequence:
    """State of one response; owned by the scheduler's thread.

    ``group``: the sequences that read the same prompts, this one among them, in the order in which they came.
    ``response``: its last token may be one that only the device knows yet (see :class:`~server.engine.chunk.Chunk`).
    ``prompt_logprobs``: of the prompt tokens read so far, where they are asked for. ``cached_tokens``: see :class:`TokenOutput`.
    ``marks``, where it only reads: by member, the log-probs [n] of the begun tokens read so far, in parts; or a value [1].
    ``candidates``: see :class:`SequenceRequest`.
    ``hold``: whether its contexts are to stay when it ends.
    ``conditions``: see :class:`SequenceRequest`; keys and values of these members are of these vectors.
    """

    request: SequenceRequest
    mix: dict[str, float]
    contexts: dict[str, Context]
    group: list["Sequence"]
    history: History | None
    matcher: Matcher | None
    response: list[int] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)
    preemptions: int = 0
    cached_tokens: int = 0
    drafting: Drafting = field(default_factory=Drafting)
    marks: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    hold: bool = False
    conditions: dict[str, tuple[float, ...]] = field(default_factory=dict)
    candidates: CandidateScoring | None = None

    @classmethod
    def begin(cls, request: SequenceRequest, group: list["Sequence"] | None = None) -> "Sequence":
        """A fresh sequence, nothing computed, nothing drawn; it joins ``group``, or begins one of its own.

        Raises:
            Exception: the grammar cannot be made or does not take what is begun; whatever it raised.
        """
        contexts = {name: Context(list(prompt)) for name, prompt in request.prompts.items()}
        history = History(next(iter(request.prompts.values()))) if request.sampling.penalizes else None
        matcher = request.grammar() if request.grammar else None
        sequence = cls(request, dict(request.mix), contexts, [] if group is None else group, history, matcher)
        for token in request.begun:
            sequence.append(token)
        sequence.hold, sequence.candidates = request.hold, request.candidates
        sequence.conditions = dict(request.conditions)
        sequence.group.append(sequence)
        return sequence

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
    def scorers(self) -> dict[str, float]:
        """The scorers of its candidates, with their weights, none of them 0."""
        weights = self.candidates.weights if self.candidates else {}
        return {name: weight for name, weight in weights.items() if weight != 0}

    @property
    def active(self) -> list[str]:
        """Members that have to read it: those that are asked for a score; or those with a weight, the base where something is
        told in comparison with it, and the scorers of its candidates."""
        if self.only_reads:
            return list(self.request.scores)
        weighted = [name for name, weight in self.mix.items() if weight != 0]
        base = next(iter(self.contexts))
        seen = [base, *weighted] if self.request.observes and base not in weighted else weighted
        return [*seen, *self.scorers]

    def reads(self, member: str) -> bool:
        """Whether ``member`` is one of :attr:`active`."""
        if self.only_reads or self.candidates is not None:
            return member in self.active
        return bool(self.mix.get(member)) or (self.request.observes and member == next(iter(self.contexts)))

    def reads_alike(self, other: "Sequence", member: str) -> bool:
        """Whether ``member`` makes the same keys and values of the same tokens for both."""
        return self.conditions.get(member) == other.conditions.get(member)

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

    def shares(self, parent: "Sequence", member: str, *, told: bool) -> int:
        """Tokens of ``member``'s context that ``parent`` has computed alike and that need not be computed here.

        The last is, for its logits; where log-probs of the begun tokens are to be ``told``, so are those whose logits tell them.
        """
        theirs = parent.contexts.get(member)
        if theirs is None or not self.reads_alike(parent, member):
            return 0
        length = min(self.total(member), parent.total(member), theirs.computed)
        common = _common(self.tokens(member, 0, length), parent.tokens(member, 0, length))
        if told:
            common = min(common, len(self.contexts[member].prompt) + self._marked(parent, member, common) - 1)
        return min(common, self.total(member) - 1)

    def _marked(self, parent: "Sequence", member: str, common: int) -> int:
        """Begun tokens whose log-probs ``parent``, which has ended, can tell, of the ``common`` first tokens."""
        prompt = self.contexts[member].prompt
        known = sum(len(part) for part in parent.marks.get(member, ()))
        same = known and list(prompt) == list(parent.contexts[member].prompt)
        return min(known, max(0, common - len(prompt))) if same else 0

    def take_marks(self, parent: "Sequence", member: str, length: int) -> None:
        """Take over what ``parent`` can tell of the begun tokens, of which ``length`` of the context's are copied from it."""
        count = length + 1 - len(self.contexts[member].prompt)
        if count > 0:
            self.marks[member] = [torch.cat(parent.marks[member])[:count]]

    @property
    def only_reads(self) -> bool:
        """Whether nothing is drawn for it."""
        return bool(self.request.scores)

    @property
    def fresh(self) -> bool:
        """Whether its first token is still to be drawn, behind the prompt alone."""
        return not self.response and not self.only_reads

    @property
    def reading(self) -> bool:
        """Whether log-probs of the prompt are still collected: its members then read it in step."""
        return self.request.sampling.prompt_logprobs is not None and not self.response

    @property
    def adjusts(self) -> bool:
        """Whether the next token is drawn from other logits than the mix's: bias, penalties, a mask."""
        sampling = self.request.sampling
        waits = len(self.response) < sampling.min_tokens
        return bool(sampling.logit_bias) or waits or sampling.penalizes or self.matcher is not None

    @property
    def foresees(self) -> bool:
        """Whether the next token can be drawn by who does not know which this one is: no mask and no penalty follows from it, and
        Python need not see logits, as it does to send candidates to their scorers."""
        return self.matcher is None and self.history is None and self.candidates is None

    @property
    def awaits(self) -> bool:
        """Whether its last token is one that only the device knows yet."""
        return bool(self.response) and self.response[-1] < 0

    @property
    def known(self) -> int:
        """Tokens of the response that are known."""
        return len(self.response) - self.awaits

    @property
    def full(self) -> bool:
        """Whether it ends with the token that it awaits, whichever that is."""
        return self.awaits and len(self.response) >= self.request.sampling.max_tokens

    def await_token(self, row: int) -> None:
        """Go on behind the token drawn in batch row ``row``, whichever it is."""
        self.response.append(-1 - row)

    def settle(self) -> None:
        """The token it awaits, if any, is known: it is to be appended."""
        if self.awaits:
            self.response.pop()

    def append(self, token: int) -> None:
        """Go on behind a token that was drawn.

        Raises:
            Exception: the matcher cannot go on; whatever it raised.
        """
        self.response.append(token)
        self.drafting.meet(token)
        if self.history is not None:
            self.history.append(token)
        if self.matcher is not None and token not in self.request.sampling.stop_token_ids:
            self.matcher.accept(token)

    def finish_reason(self) -> str | None:
        """Why the response is over after its last token, if it is."""
        sampling = self.request.sampling
        if self.response[-1] in sampling.stop_token_ids or (self.matcher is not None and self.matcher.ended):
            return "stop"
        return "length" if len(self.response) >= sampling.max_tokens else None


def _common(one: abc.Sequence[int], other: abc.Sequence[int]) -> int:
    """With how many tokens both begin."""
    unlike = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(unlike, min(len(one), len(other)))
