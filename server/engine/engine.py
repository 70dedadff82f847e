"""The step: schedule → run members → mix → sample → emit."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from server.engine.cache.context_cache import ContextCache
from server.engine.cache.kv_cache import BLOCK
from server.engine.chunk import Chunk
from server.engine.config import EngineConfig
from server.engine.member import Member
from server.engine.sampling import marks
from server.engine.sampling.candidates import Chosen
from server.engine.sampling.divergence import limit
from server.engine.sampling.drawing import Drawn, Outcome, draw
from server.engine.sampling.mix import Contribution, mix_logits
from server.engine.sampling.readout import Readout
from server.engine.sampling.report import token_logprobs
from server.engine.scheduler import Scheduler, Step
from server.engine.sequence import CandidateScoring, SamplingParams, SequenceRequest, TokenOutput
from server.engine.sequence import Sequence as Running
from server.engine.speculation.pace import AdaptivePace, Pace
from server.engine.speculation.speculation import Speculation


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine is doing; counters run from its start.

    ``prompt_tokens_computed``: tokens of prompts that the base ran; copies of what it ran for another response not counted.
    ``cache_usage``: share of each member's blocks in use, 0 to 1; what is kept of prompts is not in use.
    ``prefix_queries``: tokens of prompts the base was asked to read; ``prefix_hits``: those of them it had read before.
    ``draft_tokens``: guessed ahead; ``accepted_tokens``: those of them that were drawn.
    ``forwards``: by member, forwards in which it read anything; ``tokens``: what it computed in them.
    """

    running: int
    waiting: int
    preemptions: int
    steps: int
    cache_usage: Mapping[str, float]
    prompt_tokens_computed: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    forwards: Mapping[str, int] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)


Conditions = Mapping[str, tuple[float, ...]]
"""Member name → the preference vector it is conditioned on."""


class Engine:
    """Members, one batch, one step at a time. Not thread-safe: one thread owns it (:class:`EngineThread`).

    ``pace``: how far ahead to guess, where ``config.speculation`` is not off; unless told, as far as pays.
    """

    def __init__(self, members: Sequence[Member], config: EngineConfig, *, pace: Pace | None = None) -> None:
        self.members = {member.name: member for member in members}
        self.config = config
        self._runners = tuple({id(member.runner): member.runner for member in members}.values())
        self._scorers = [member.name for member in members if member.scalar]
        self._voices = [
            member.name for member in members if not member.scalar
        ]  # those that a token is drawn from
        caches = {member.name: member.cache for member in members}
        self._scheduler = Scheduler(caches, config, self._scorers)
        self._speculation = Speculation(
            self._voices, members[0].vocab_size, self._scheduler, config, pace or AdaptivePace()
        )
        self._steps = 0
        self._forwards = dict.fromkeys(self.members, 0)
        self._tokens = dict.fromkeys(self.members, 0)
        device = members[0].loaded.device
        self._overlap = overlaps(config, device)
        self._sync = device.type == "cpu"
        self._unsettled: Drawn | None = None  # what the last step drew, not known to Python yet
        # Longest context of each member in tokens: what the model allows, and what its cache can hold.
        self.max_context = {
            member.name: min(member.max_length, _longest_context(member.cache)) for member in members
        }

    @property
    def has_work(self) -> bool:
        """Whether any response is under way."""
        return len(self._scheduler) > 0

    def add(self, *requests: SequenceRequest) -> None:
        """Queue responses, all or none. Those of one call that have equal prompts share the reading of them.

        Raises:
            ValueError: an id is under way or held, a weighted member is unknown or has no prompt, a prompt is empty or holds
                a token outside the vocabulary, a weight is not finite, no member is weighted, prompt and ``max_tokens`` exceed a
                member's context, a token of ``begun``, ``logit_bias`` or ``stop_token_ids`` is outside the vocabulary,
                prompt log-probs are asked for where the members that are read have different prompts or a response has begun,
                a report or ``max_kl`` without a prompt for the base, ``power`` with a negative weight or with ``max_kl``,
                ``begun`` leaves nothing to draw, or a member that is read lacks the preference vector that it is conditioned on.
        """
        begun: list[Running] = []
        for request in requests:
            self._check(request)
            if any(other.id == request.id for other in begun):
                raise ValueError(f"id {request.id!r} is given twice")
            like = next((one for one in begun if one.request.prompts == request.prompts), None)
            try:
                begun.append(Running.begin(request, like.group if like else None))
            except Exception as error:  # whatever a grammar trips over is this request's alone
                raise ValueError(f"grammar: {error}") from error
        for sequence in begun:
            self._scheduler.add(sequence)

    def change(
        self,
        sequence_id: str,
        mix: Mapping[str, float],
        conditions: Conditions | None = None,
        candidates: CandidateScoring | None = None,
    ) -> int:
        """Give a response under way new weights; returns the index of the first token drawn under them.

        A member whose weight leaves 0 reads what it has missed first, in chunks; one whose weight becomes 0 gives its
        memory back. ``conditions``: the preference vectors from now on, where they are to be others; a member whose vector
        changes reads everything again. ``candidates``: how they are scored from now on; None leaves that as it is.

        Raises:
            KeyError: no such response is under way.
            ValueError: as in :meth:`add`.
        """
        sequence = self._scheduler.get(sequence_id)
        conditions = sequence.conditions if conditions is None else conditions
        self._check_mix(mix, sequence.request)
        self._check_conditions(mix, conditions)
        self._check_candidates(candidates, sequence.request)
        before, old = sequence.active, sequence.conditions
        sequence.mix, sequence.conditions = dict(mix), dict(conditions)
        sequence.candidates = candidates or sequence.candidates
        for name in before:
            # Prompt log-probs are all of one mix, so what was collected under the old one is read again.
            if not sequence.reads(name) or sequence.reading or old.get(name) != conditions.get(name):
                self._scheduler.release(sequence, name)
        if sequence.reading:
            sequence.prompt_logprobs.clear()
        return len(sequence.response)

    def change_all(
        self,
        sequence_ids: Iterable[str],
        mix: Mapping[str, float],
        conditions: Conditions | None = None,
        candidates: CandidateScoring | None = None,
    ) -> dict[str, int]:
        """:meth:`change` for each of them that is still under way; ``ValueError`` changes none."""
        running = [self._scheduler.get(name) for name in sequence_ids if name in self._scheduler]
        for one in running:
            self._check_mix(mix, one.request)
            self._check_conditions(mix, one.conditions if conditions is None else conditions)
            self._check_candidates(candidates, one.request)
        return {one.id: self.change(one.id, mix, conditions, candidates) for one in running}

    def abort(self, sequence_id: str) -> list[TokenOutput]:
        """End a response now; nothing when it is not under way."""
        try:
            sequence = self._scheduler.get(sequence_id)
        except KeyError:
            return []
        self._scheduler.remove(sequence)
        return [TokenOutput(sequence_id, sequence.known, -1, "abort")]

    def release(self, sequence_ids: Iterable[str]) -> None:
        """Give back what held responses hold; those under way will not be held, others are no error."""
        for sequence_id in sequence_ids:
            self._scheduler.let_go(sequence_id)

    def fail_all(self, message: str) -> list[TokenOutput]:
        """End every response under way with an error."""
        sequences = self._scheduler.all()
        return [TokenOutput(one.id, one.known, -1, "error", message) for one in sequences]

    @torch.inference_mode()
    def step(self) -> list[TokenOutput]:
        """Run one step; the tokens that have become known, those of one response in their order.

        These are the step's own; or, where steps overlap and none of its sequences needs to know them, those of the one before.
        """
        self._speculation.begin()
        step, readout = self._scheduler.schedule(), Readout(self._voices)
        self._steps += bool(step.chunks)
        self._run(step, readout)
        if all(one.candidates is None for one in step.drawing):
            self._judge([], step, {})
        drawn = self._draw(step.drawing, step, readout) if step.drawing else None
        # Not earlier: while Python looks at these the device is at work.
        before, self._unsettled = self._unsettled, None
        outputs = self._settle(before) + [self._tell_scores(one) for one in step.read]
        if drawn is not None and self._overlap and all(one.foresees for one in drawn.sequences):
            self._await(drawn)
            return outputs
        outputs += self._tell(drawn, step, readout)
        self._speculation.end(step, len(outputs))
        return outputs

    def generate(self, requests: Iterable[SequenceRequest]) -> dict[str, list[int]]:
        """Responses of all requests by id, stop token included; runs steps until every one has ended.

        Raises:
            ValueError: as in :meth:`add`.
            RuntimeError: a response ended with an error.
        """
        responses: dict[str, list[int]] = {}
        for request in requests:
            self.add(request)
            responses[request.id] = []
        while self.has_work:
            for output in self.step():
                if output.error is not None:
                    raise RuntimeError(f"{output.id}: {output.error}")
                responses[output.id].append(output.token)
        return responses

    def stats(self) -> EngineStats:
        """What the engine is doing now."""
        usage = {
            name: 1 - member.cache.free_blocks / member.cache.num_blocks
            for name, member in self.members.items()
        }
        scheduler = self._scheduler
        return EngineStats(
            len(scheduler.running),
            len(scheduler.waiting),
            scheduler.preemptions,
            self._steps,
            usage,
            scheduler.prompt_tokens_computed,
            scheduler.prefix_queries,
            scheduler.prefix_hits,
            self._speculation.draft_tokens,
            self._speculation.accepted_tokens,
            dict(self._forwards),
            dict(self._tokens),
        )

    def check_integrity(self) -> None:
        """Raise ``AssertionError`` when the books do not balance; when idle every block must be free."""
        for member in self.members.values():
            member.cache.check_integrity()
            if not self.has_work:
                assert member.cache.free_blocks == member.cache.num_blocks

    def _forward(self, chunks: Mapping[str, Sequence[Chunk]]) -> dict[str, torch.Tensor]:
        """Run every member over its chunks; by member, logits as :meth:`Runner.forward` returns them.

        In the members' order, whoever came first in the plan: a row's sum must not depend on its neighbours.
        """
        logits: dict[str, torch.Tensor] = {}
        tokens = self._unsettled.tokens if self._unsettled else None
        for runner in self._runners:
            own = {lane.name: chunks[lane.name] for lane in runner.lanes if lane.name in chunks}
            if own:
                logits |= runner.forward(own, tokens)
                self._count(own)
        return {name: logits[name] for name in self.members if name in logits}

    def _count(self, chunks: Mapping[str, Sequence[Chunk]]) -> None:
        for name, own in chunks.items():
            self._forwards[name] += 1
            self._tokens[name] += sum(len(chunk.tokens) for chunk in own)

    def _judge(
        self, drawing: Sequence[Running], step: Step, chosen: Chosen
    ) -> dict[int, dict[str, torch.Tensor]]:
        """Run the scorers, each once: over what they have to read in this step, and over the candidates ``chosen`` for rows of
        ``drawing`` behind it. By row and scorer, the candidates' values [n]."""
        chunks = {name: list(step.chunks[name]) for name in self._scorers if name in step.chunks}
        asked: list[tuple[int, str, int]] = []
        for row, tokens in chosen.items():
            one = drawing[row]
            owner = step.forks[one.id].id if one.id in step.forks else one.id
            for name in one.scorers if tokens else ():
                chunks[name].append(Chunk(owner, tokens, one.total(name), False, len(tokens), apart=True))
                asked.append((row, name, len(tokens)))
        if not chunks:
            return {}
        values = self._forward(chunks)
        self._mark(chunks, values)
        self._fork(step, self._scorers)
        self._keep(step, self._scorers)
        read = {name: sum(chunk.logits for chunk in step.chunks.get(name, ())) for name in chunks}
        told: dict[int, dict[str, torch.Tensor]] = {}
        for row, name, count in asked:
            start = read[name]
            told.setdefault(row, {})[name] = values[name][start : start + count, 0]
            read[name] += count
        return told

    def _fork(self, step: Step, members: Sequence[str]) -> None:
        """Give followers a copy of what their leaders have computed: of the contexts of ``members``."""
        for follower in step.drawing:
            leader = step.forks.get(follower.id)
            if leader is None:
                continue
            for name in set(follower.active).intersection(members):
                self.members[name].cache.copy(leader.id, follower.id, leader.total(name))

    def _keep(self, step: Step, members: Sequence[str]) -> None:
        """Keep the prompts that were read to their end in this step: those of ``members``."""
        for sequence in [*step.drawing, *step.read]:
            behind = len(sequence.response) - len(sequence.request.begun)
            if not behind and sequence.id not in step.forks:
                self._scheduler.keep_prefix(sequence, members)

    def _read(self, step: Step, logits: Mapping[str, torch.Tensor]) -> None:
        """Collect log-probs of prompts that were read in this step."""
        for sequence in self._scheduler.running:
            if not sequence.reading or sequence.id in step.forks:
                continue
            parts, tokens = prompt_contributions(step, logits, sequence)
            if not sequence.prompt_logprobs:
                sequence.prompt_logprobs.append(None)
            if tokens:
                count = sequence.request.sampling.prompt_logprobs or 0
                mixed = mix_logits(list(parts.values()), len(tokens), [sequence.request.power] * len(tokens))
                if sequence.request.max_kl is not None:
                    base = next(iter(parts.values())).logits.to(mixed.device)
                    mixed, _ = limit(mixed, base, [sequence.request.max_kl] * len(tokens))
                sequence.prompt_logprobs.extend(token_logprobs(mixed, tokens, [count] * len(tokens)))
        for follower, leader in step.forks.items():
            self._scheduler.get(follower).prompt_logprobs = leader.prompt_logprobs

    def _mark(self, chunks: Mapping[str, Sequence[Chunk]], logits: Mapping[str, torch.Tensor]) -> None:
        """Collect what is asked of members about tokens that are there already."""
        reading: dict[object, Running] = {one.id: one for one in self._scheduler.running if one.only_reads}
        if reading:
            for name, rows in logits.items():
                marks.collect(chunks[name], rows, name, reading, scalar=name in self._scorers)

    def _run(self, step: Step, readout: Readout) -> None:
        """Everything of a step that comes before its tokens, but for the scorers."""
        self._speculation.guess(step, readout, self._forward)
        logits = self._forward({name: step.chunks[name] for name in self._voices if name in step.chunks})
        readout.add(step.chunks, logits)
        self._fork(step, self._voices)
        self._read(step, logits)
        self._mark(step.chunks, logits)
        self._keep(step, self._voices)

    def _draw(self, drawing: list[Running], step: Step, readout: Readout) -> Drawn:
        """A token of each of ``drawing``."""
        parts = readout.parts(drawing, step.forks)
        return draw(drawing, parts, partial(self._judge, drawing, step), sync=self._sync)

    def _tell_scores(self, sequence: Running) -> TokenOutput:
        """The one output of a sequence that only reads, which is over."""
        scores = {name: marks.total(sequence.marks.get(name, ())) for name in sequence.active}
        self._scheduler.finish(sequence)
        return TokenOutput(
            sequence.id,
            len(sequence.response),
            -1,
            "length",
            cached_tokens=sequence.cached_tokens,
            scores=scores,
        )

    def _settle(self, drawn: Drawn | None) -> list[TokenOutput]:
        """Tell what was drawn; a response that has ended since has no part in it."""
        if drawn is None:
            return []
        outputs = []
        for sequence, outcome in zip(drawn.sequences, drawn.outcomes(), strict=True):
            if self._scheduler.holds(sequence):
                sequence.settle()
                outputs.append(self._advance(sequence, outcome))
        return outputs

    def _tell(self, drawn: Drawn | None, step: Step, readout: Readout) -> list[TokenOutput]:
        """What was drawn; then, of those for which it had been guessed, the next token; and so on."""
        outputs: list[TokenOutput] = []
        while drawn is not None:
            outputs += self._settle(drawn)
            drawing = [one for one in drawn.sequences if one.drafting.goes_on]
            drawn = self._draw(drawing, step, readout) if drawing else None
        return outputs

    def _await(self, drawn: Drawn) -> None:
        """Go on without knowing what was drawn."""
        for row, sequence in enumerate(drawn.sequences):
            if self._scheduler.holds(sequence):
                sequence.await_token(row)
        self._unsettled = drawn

    def _advance(self, sequence: Running, outcome: Outcome) -> TokenOutput:
        """Append, report, and retire what has ended."""
        index, fault = len(sequence.response), outcome.fault
        prompt = None
        if index == 0 and sequence.request.sampling.prompt_logprobs is not None:
            prompt = tuple(sequence.prompt_logprobs)
        if fault is None and sequence.request.sampling.max_tokens == 0:
            self._scheduler.finish(sequence)
            return TokenOutput(
                sequence.id,
                0,
                -1,
                "length",
                prompt_logprobs=prompt,
                cached_tokens=sequence.cached_tokens,
            )
        if fault is None:
            try:
                sequence.append(outcome.token)
            except Exception as error:
                fault = f"the grammar failed: {error}"
        if fault is not None:
            sequence.drafting.goes_on = False
            self._scheduler.remove(sequence)
            return TokenOutput(sequence.id, index, -1, "error", fault)
        reason = sequence.finish_reason()
        if reason is not None:
            sequence.drafting.goes_on = False
            self._scheduler.finish(sequence)
        drafting = sequence.drafting
        return TokenOutput(
            sequence.id,
            index,
            outcome.token,
            reason,
            None,
            outcome.logprobs,
            prompt,
            outcome.report,
            sequence.cached_tokens,
            drafting.accepted,
            drafting.rejected,
        )

    def _check(self, request: SequenceRequest) -> None:
        if self._scheduler.is_taken(request.id):
            raise ValueError(f"id {request.id!r} is already under way or held")
        longest = len(request.begun) if request.scores else request.sampling.max_tokens
        for name, prompt in request.prompts.items():
            if name not in self.members:
                raise ValueError(f"prompts: there is no member {name!r}; there are {', '.join(self.members)}")
            if not prompt:
                raise ValueError(f"prompts: {name} has an empty prompt")
            if len(prompt) + longest > self.max_context[name]:
                wanted = "begun has" if request.scores else "max_tokens is"
                raise ValueError(
                    f"{name} reads at most {self.max_context[name]} tokens; its prompt has {len(prompt)} and "
                    f"{wanted} {longest}"
                )
            size = self.members[name].input_size
            if min(prompt) < 0 or max(prompt) >= size:
                raise ValueError(f"prompts: {name} has a token outside its vocabulary of {size}")
        self._check_begun(request)
        if request.scores:
            self._check_conditions(dict.fromkeys(request.scores, 1.0), request.conditions)
            return
        self._check_sampling(request.sampling)
        self._check_mix(request.mix, request)
        self._check_conditions(request.mix, request.conditions)
        self._check_candidates(request.candidates, request)
        if request.max_kl is not None and not request.max_kl >= 0:
            raise ValueError(f"max_kl must not be negative: {request.max_kl}")
        if not math.isfinite(request.power):
            raise ValueError(f"power must be finite: {request.power}")
        if request.power and request.max_kl is not None:
            raise ValueError("max_kl scales weights that are added up; it has no meaning with a power mean")

    def _check_begun(self, request: SequenceRequest) -> None:
        sampling, size = request.sampling, next(iter(self.members.values())).vocab_size
        if any(not 0 <= token < size for token in request.begun):
            raise ValueError(f"begun has a token outside the vocabulary of {size}")
        for name in request.scores:
            if name not in self.members:
                raise ValueError(f"scores: there is no member {name!r}; there are {', '.join(self.members)}")
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
        size = next(iter(self.members.values())).vocab_size
        for name, tokens in (
            ("logit_bias", sampling.logit_bias),
            ("stop_token_ids", sampling.stop_token_ids),
        ):
            if any(not 0 <= token < size for token in tokens):
                raise ValueError(f"{name} has a token outside the vocabulary of {size}")

    def _check_conditions(self, mix: Mapping[str, float], conditions: Conditions) -> None:
        for name, vector in conditions.items():
            if name not in self.members:
                raise ValueError(
                    f"conditions: there is no member {name!r}; there are {', '.join(self.members)}"
                )
            objectives = self.members[name].objectives
            if len(vector) != len(objectives) or not all(map(math.isfinite, vector)):
                wanted = (
                    f"{len(objectives)} finite numbers ({', '.join(objectives)})" if objectives else "none"
                )
                raise ValueError(f"conditions: {name} takes {wanted}, not {list(vector)}")
        for name, weight in mix.items():
            if weight != 0 and self.members[name].objectives and name not in conditions:
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
            if name not in self.members:
                raise ValueError(f"mix: there is no member {name!r}; there are {', '.join(self.members)}")
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
        base = next(iter(self.members))
        if request.observes and next(iter(request.prompts)) != base:
            raise ValueError("report and max_kl: the base needs a prompt, the first of all")
        if request.sampling.prompt_logprobs is not None:
            reading = {name for name, weight in mix.items() if weight} | (
                {base} if request.observes else set()
            )
            first, *others = [list(request.prompts[name]) for name in reading]
            if any(other != first for other in others):
                raise ValueError("prompt_logprobs: the members that are read have different prompts")


def overlaps(config: EngineConfig, device: torch.device) -> bool:
    """Whether steps overlap where the base is on ``device``."""
    asked = device.type == "cuda" if config.overlap is None else config.overlap
    return asked and config.speculation == "off"


def _longest_context(cache: ContextCache) -> int:
    """Tokens of the longest context that ``cache`` can hold."""
    length = cache.num_blocks * BLOCK
    while cache.blocks_for(length) > cache.num_blocks:
        length -= BLOCK
    return length


def prompt_contributions(
    step: Step, logits: Mapping[str, torch.Tensor], sequence: Running
) -> tuple[dict[str, Contribution], list[int]]:
    """What each member says about the prompt tokens behind those that ``sequence`` read in this step, and these tokens."""
    parts: dict[str, Contribution] = {}
    tokens: list[int] = []
    for name in logits:
        end = 0
        for chunk in step.chunks[name]:
            end += chunk.logits
            if chunk.owner != sequence.id:
                continue
            prompt = sequence.contexts[name].prompt
            tokens = list(prompt[chunk.start + 1 : chunk.start + len(chunk.tokens) + 1])
            begin = end - chunk.logits
            if tokens:
                rows = logits[name][begin : begin + len(tokens)]
                weights = [sequence.mix.get(name, 0.0)] * len(tokens)
                parts[name] = Contribution(rows, range(len(tokens)), weights)
    return parts, tokens
