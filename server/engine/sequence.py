"""A response under way, and what each member still has to read of it."""

import time
from collections import abc
from dataclasses import dataclass, field

import torch

from server.engine.output import TokenLogprobs
from server.engine.request import CandidateScoring, Matcher, SequenceRequest
from server.engine.sampling.penalties import History
from server.engine.speculation.drafting import Drafting


@dataclass(slots=True)
class Context:
    """What ONE member reads for a sequence: its own prompt and the shared response; ``computed`` of it lies in its cache.
    ``charged``: tokens of it that its owner has been given; they count once, however often they are computed."""

    prompt: abc.Sequence[int]
    computed: int = 0
    charged: int = 0


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
    ``came``: when, on ``time.monotonic()``'s clock; ``queued``: seconds from there to its first chunk, once that is planned.
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
    came: float = field(default_factory=time.monotonic)
    queued: float | None = None

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
    def owner(self) -> str:
        """Whose it is."""
        return self.request.owner

    @property
    def position(self) -> int:
        """Where the next token stands in the base's context. It keys the draw's noise, so that a fresh request on prompt +
        the tokens so far goes on as this one does."""
        return len(next(iter(self.contexts.values())).prompt) + len(self.response)

    def leave_queue(self) -> None:
        """A chunk of it is planned; only the first says how long it has waited."""
        if self.queued is None:
            self.queued = time.monotonic() - self.came

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
