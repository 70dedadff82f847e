"""What the engine refuses before a request reaches the scheduler."""

import math
from collections.abc import Mapping, Sequence

from server.engine.member import Member
from server.engine.request import CandidateScoring, Conditions, SamplingParams, SequenceRequest


class Admission:
    """Checks requests, and changes of them, against the members there are.

    Args:
        members: the base first.
        max_context: tokens that each of them can read.
    """

    def __init__(self, members: Sequence[Member], max_context: Mapping[str, int]) -> None:
        self._members = {member.name: member for member in members}
        self._max_context = max_context
        self._scorers = [member.name for member in members if member.scalar]

    def check(self, request: SequenceRequest) -> None:
        """Raise ``ValueError`` that names what is wrong with a request."""
        longest = len(request.begun) if request.scores else request.sampling.max_tokens
        for name, prompt in request.prompts.items():
            if name not in self._members:
                raise ValueError(
                    f"prompts: there is no member {name!r}; there are {', '.join(self._members)}"
                )
            if not prompt:
                raise ValueError(f"prompts: {name} has an empty prompt")
            if len(prompt) + longest > self._max_context[name]:
                wanted = "begun has" if request.scores else "max_tokens is"
                raise ValueError(
                    f"{name} reads at most {self._max_context[name]} tokens; its prompt has {len(prompt)} and "
                    f"{wanted} {longest}"
                )
            size = self._members[name].input_size
            if min(prompt) < 0 or max(prompt) >= size:
                raise ValueError(f"prompts: {name} has a token outside its vocabulary of {size}")
        self._check_begun(request)
        if request.scores:
            self._check_conditions(dict.fromkeys(request.scores, 1.0), request.conditions)
            return
        self._check_sampling(request.sampling)
        self.check_change(request, request.mix, request.conditions, request.candidates)
        if request.max_kl is not None and not request.max_kl >= 0:
            raise ValueError(f"max_kl must not be negative: {request.max_kl}")
        if not math.isfinite(request.power):
            raise ValueError(f"power must be finite: {request.power}")
        if request.power and request.max_kl is not None:
            raise ValueError("max_kl scales weights that are added up; it has no meaning with a power mean")

    def check_change(
        self,
        request: SequenceRequest,
        mix: Mapping[str, float],
        conditions: Conditions,
        candidates: CandidateScoring | None,
    ) -> None:
        """Raise ``ValueError`` that names why ``request`` cannot go on under these."""
        self._check_mix(mix, request)
        self._check_conditions(mix, conditions)
        self._check_candidates(candidates, request)

    def _check_begun(self, request: SequenceRequest) -> None:
        sampling, size = request.sampling, next(iter(self._members.values())).vocab_size
        if any(not 0 <= token < size for token in request.begun):
            raise ValueError(f"begun has a token outside the vocabulary of {size}")
        for name in request.scores:
            if name not in self._members:
                raise ValueError(f"scores: there is no member {name!r}; there are {', '.join(self._members)}")
            if name not in request.prompts:
                raise ValueError(f"scores: {name} has no prompt")
        if len(set(request.scores)) < len(request.scores):
            raise ValueError("scores: a member is named twice")
        if sampling.prompt_logprobs is not None and (request.begun or request.scores):
            raise ValueError("prompt_logprobs: not where the response has begun, or with scores")
        if request.begun and not request.scores:
            if len(request.begun) >= sampling.max_tokens:
                raise ValueError(
                    f"max_tokens counts the {len(request.begun)} tokens of begun; {sampling.max_tokens} leaves none to draw"
                )
            if sampling.stop_token_ids.intersection(request.begun):
                raise ValueError("begun holds a stop token: the response is over")

    def _check_sampling(self, sampling: SamplingParams) -> None:
        size = next(iter(self._members.values())).vocab_size
        for name, tokens in (
            ("logit_bias", sampling.logit_bias),
            ("stop_token_ids", sampling.stop_token_ids),
        ):
            if any(not 0 <= token < size for token in tokens):
                raise ValueError(f"{name} has a token outside the vocabulary of {size}")

    def _check_conditions(self, mix: Mapping[str, float], conditions: Conditions) -> None:
        for name, vector in conditions.items():
            if name not in self._members:
                raise ValueError(
                    f"conditions: there is no member {name!r}; there are {', '.join(self._members)}"
                )
            objectives = self._members[name].objectives
            if len(vector) != len(objectives) or not all(map(math.isfinite, vector)):
                wanted = (
                    f"{len(objectives)} finite numbers ({', '.join(objectives)})" if objectives else "none"
                )
                raise ValueError(f"conditions: {name} takes {wanted}, not {list(vector)}")
        for name, weight in mix.items():
            if weight != 0 and self._members[name].objectives and name not in conditions:
                raise ValueError(f"conditions: {name} is read but has no preference vector")

    def _check_candidates(self, candidates: CandidateScoring | None, request: SequenceRequest) -> None:
        if candidates is None:
            return
        for name, weight in candidates.weights.items():
            if name not in self._scorers:
                has = f"there are {', '.join(self._scorers)}" if self._scorers else "there is none"
                raise ValueError(f"candidates: {name!r} is no scorer; {has}")
            if weight != 0 and name not in request.prompts:
                raise ValueError(f"candidates: {name} is weighted in but has no prompt")
        if request.max_kl is not None:
            raise ValueError("max_kl: candidates cannot be kept within a distance of the base")

    def _check_mix(self, mix: Mapping[str, float], request: SequenceRequest) -> None:
        for name, weight in mix.items():
            if name not in self._members:
                raise ValueError(f"mix: there is no member {name!r}; there are {', '.join(self._members)}")
            if not abs(weight) < float("inf"):
                raise ValueError(f"mix: the weight of {name} is {weight}; it must be finite")
            if weight and name in self._scorers:
                raise ValueError(f"mix: {name} gives values, not logits to add up; it scores candidates")
            if request.power and weight < 0:
                raise ValueError(f"mix: the weight of {name} is {weight}; a power mean takes none below 0")
            if weight != 0 and name not in request.prompts:
                raise ValueError(f"mix: {name} is weighted in but has no prompt")
        if not any(mix.values()):
            raise ValueError("mix: at least one member needs a weight other than 0")
        base = next(iter(self._members))
        if request.observes and next(iter(request.prompts)) != base:
            raise ValueError("report and max_kl: the base needs a prompt, the first of all")
        if request.sampling.prompt_logprobs is not None:
            reading = {name for name, weight in mix.items() if weight} | (
                {base} if request.observes else set()
            )
            first, *others = [list(request.prompts[name]) for name in reading]
            if any(other != first for other in others):
                raise ValueError("prompt_logprobs: the members that are read have different prompts")
