"""The step: schedule → run members → mix → sample → emit."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial

import torch

from server.engine.admission import Admission
from server.engine.chunk import Chunk
from server.engine.config import EngineConfig
from server.engine.member import Member
from server.engine.memory_fault import is_out_of_memory
from server.engine.output import TokenOutput
from server.engine.request import CandidateScoring, Conditions, SequenceRequest
from server.engine.sampling import marks, prompt_logprobs
from server.engine.sampling.candidates import Chosen
from server.engine.sampling.drawing import Drawn, Outcome, draw
from server.engine.sampling.readout import Readout
from server.engine.scheduler import Scheduler, Step
from server.engine.sequence import Sequence as Running
from server.engine.speculation.pace import AdaptivePace, Pace
from server.engine.speculation.speculation import Speculation
from server.engine.stats import EngineStats
from server.engine.timings import Timings

logger = logging.getLogger(__name__)

OUT_OF_MEMORY = "out of memory with nothing else in hand"


class Engine:
    """Members, one batch, one step at a time. Not thread-safe: one thread owns it (:class:`EngineThread`).

    ``pace``: how far ahead to guess, where ``config.speculation`` is not off; unless told, as far as pays.
    """

    def __init__(self, members: Sequence[Member], config: EngineConfig, *, pace: Pace | None = None) -> None:
        self.members = {member.name: member for member in members}
        self.config = config
        # Longest context of each member in tokens: what the model allows, and what its cache can hold.
        self.max_context = {member.name: member.max_context for member in members}
        self._arrange()
        caches = {member.name: member.cache for member in members}
        self._scheduler = Scheduler(caches, config, self._scorers)
        self._speculation = Speculation(
            self._voices, members[0].vocab_size, self._scheduler, config, pace or AdaptivePace()
        )
        self._steps = 0
        self._forwards = dict.fromkeys(self.members, 0)
        self._tokens = dict.fromkeys(self.members, 0)
        self._timings = Timings(members[0].name)
        device = members[0].loaded.device
        self._device = device
        self._overlap = overlaps(config, device)
        self._sync = device.type == "cpu"
        self._unsettled: Drawn | None = None  # what the last step drew, not known to Python yet

    @property
    def has_work(self) -> bool:
        """Whether any response is under way."""
        return len(self._scheduler) > 0

    def add_members(self, members: Sequence[Member]) -> None:
        """Let responses read with these too; their forwards run after those of the members there are.

        Raises:
            ValueError: a member of this name is there already.
        """
        for member in members:
            if member.name in self.members:
                raise ValueError(f"there is a member {member.name!r} already")
        for member in members:
            self.members[member.name] = member
            self.max_context[member.name] = member.max_context
            self._forwards[member.name] = self._tokens[member.name] = 0
            self._scheduler.add_member(member.name, member.cache, scorer=member.scalar)
        self._arrange()
        self._speculation.meet(self._voices)

    def remove_members(self, names: Collection[str]) -> None:
        """Forget members, all or none, and give back what they hold: cache, kept prompts, and weights that nobody else uses.

        Raises:
            ValueError: there is no such member, it is the base, or a response under way or held has a prompt for it.
        """
        for name in names:
            if name not in self.members:
                raise ValueError(f"there is no member {name!r}; there are {', '.join(self.members)}")
            if name == next(iter(self.members)):
                raise ValueError(f"{name} is the base, which every response is placed by")
            if self._scheduler.reads(name):
                raise ValueError(f"{name} is read by a response that is under way or held")
        for name in names:
            self._scheduler.remove_member(name)
            self.members.pop(name).close()
            del self.max_context[name], self._forwards[name], self._tokens[name]
        self._arrange()
        self._speculation.meet(self._voices, gone=names)

    def _arrange(self) -> None:
        """What follows from who the members are."""
        members = list(self.members.values())
        self._runners = tuple({id(member.runner): member.runner for member in members}.values())
        self._scorers = [member.name for member in members if member.scalar]
        # Those that a token is drawn from.
        self._voices = [member.name for member in members if not member.scalar]
        self._admission = Admission(members, self.max_context)

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
            if self._scheduler.is_taken(request.id):
                raise ValueError(f"id {request.id!r} is already under way or held")
            self._admission.check(request)
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
        self._admission.check_change(sequence.request, mix, conditions, candidates)
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
            held = one.conditions if conditions is None else conditions
            self._admission.check_change(one.request, mix, held, candidates)
        return {one.id: self.change(one.id, mix, conditions, candidates) for one in running}

    def abort(self, sequence_id: str) -> list[TokenOutput]:
        """End a response now; nothing when it is not under way."""
        try:
            sequence = self._scheduler.get(sequence_id)
        except KeyError:
            return []
        self._scheduler.remove(sequence)
        return [TokenOutput(sequence_id, sequence.known, -1, "abort")]

    def has_begun(self, prefix: str) -> bool:
        """Whether any response under way whose id begins with ``prefix`` has left the queue: its reading has begun."""
        return any(one.queued is not None for one in self._scheduler.all() if one.id.startswith(prefix))

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
        A step that runs out of memory tells what it has come to; what it had in hand is computed again, with less beside it.
        """
        told: list[TokenOutput] = []
        self._timings.begin_step()
        try:
            self._step(told)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error)
        else:
            self._timings.end_step()
            if told:
                self._scheduler.places.drew()
            return told
        # Not earlier: the error keeps the step's tensors.
        self._recover(reason, told)
        return told

    def _step(self, told: list[TokenOutput]) -> None:
        """See :meth:`step`; adds to ``told`` what is known for good, token by token."""
        self._speculation.begin()
        step, readout = self._scheduler.schedule(), Readout(self._voices)
        self._steps += bool(step.chunks)
        self._run(step, readout)
        if all(one.candidates is None for one in step.drawing):
            self._judge([], step, {})
        drawn = self._draw(step.drawing, step, readout) if step.drawing else None
        # Not earlier: while Python looks at these the device is at work.
        self._settle(self._unsettled, told)
        for one in step.read:
            told.append(self._tell_scores(one))
        if drawn is not None and self._overlap and all(one.foresees for one in drawn.sequences):
            self._await(drawn)
            return
        self._tell(drawn, step, readout, told)
        self._speculation.end(step, len(told))

    def _recover(self, reason: str, told: list[TokenOutput]) -> None:
        """Undo a step that ran out of memory; a sequence for which there is too little even alone ends with an error.

        What is drawn does not depend on when it is computed, so that nobody can tell from an answer.
        """
        self._speculation.abandon()
        hopeless = self._scheduler.retreat()
        self._settle(self._unsettled, told)
        torch.cuda.empty_cache()  # nothing where no GPU is in use
        if hopeless is not None and self._scheduler.holds(hopeless):
            self._scheduler.remove(hopeless)
            told.append(TokenOutput(hopeless.id, hopeless.known, -1, "error", OUT_OF_MEMORY))
        places = self._scheduler.places.now
        logger.warning(
            "out of memory in a step; at most %d responses side by side for now: %s", places, reason
        )

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
            scheduler.places.faults,
            self._timings.now,
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
                with self._timings.forward(own, self.members[next(iter(own))].loaded.device):
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
            if sequence.reading and sequence.id not in step.forks:
                prompt_logprobs.collect(step.chunks, logits, sequence)
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
        with self._timings.mixing(self._device):
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

    def _settle(self, drawn: Drawn | None, told: list[TokenOutput]) -> None:
        """Tell what was drawn; a response that has ended since has no part in it."""
        if drawn is None:
            return
        outcomes = drawn.outcomes()
        if drawn is self._unsettled:
            self._unsettled = None  # not earlier: if this ran out of memory, its tokens would be lost
        for sequence, outcome in zip(drawn.sequences, outcomes, strict=True):
            if self._scheduler.holds(sequence):
                sequence.settle()
                told.append(self._advance(sequence, outcome))

    def _tell(self, drawn: Drawn | None, step: Step, readout: Readout, told: list[TokenOutput]) -> None:
        """What was drawn; then, of those for which it had been guessed, the next token; and so on."""
        while drawn is not None:
            self._settle(drawn, told)
            drawing = [one for one in drawn.sequences if one.drafting.goes_on]
            drawn = self._draw(drawing, step, readout) if drawing else None

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
                queued=sequence.queued,
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
            queued=sequence.queued if index == len(sequence.request.begun) else None,
        )


def overlaps(config: EngineConfig, device: torch.device) -> bool:
    """Whether steps overlap where the base is on ``device``."""
    asked = device.type == "cuda" if config.overlap is None else config.overlap
    return asked and config.speculation == "off"
