"""The step: schedule → run members → mix → sample → emit."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from server.engine.config import EngineConfig
from server.engine.kv_cache import BLOCK, capacity_for
from server.engine.member import Member
from server.engine.mix import Contribution, mix_logits
from server.engine.sampler import sample
from server.engine.scheduler import Scheduler, Step
from server.engine.sequence import Sequence as Running
from server.engine.sequence import SequenceRequest, TokenLogprobs, TokenOutput


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine is doing; counters run from its start.

    ``cache_usage``: share of each member's blocks in use, 0 to 1.
    """

    running: int
    waiting: int
    preemptions: int
    steps: int
    cache_usage: Mapping[str, float]


class Engine:
    """Members, one batch, one step at a time. Not thread-safe: one thread owns it (:class:`EngineThread`)."""

    def __init__(self, members: Sequence[Member], config: EngineConfig) -> None:
        self.members = {member.name: member for member in members}
        self.config = config
        self._scheduler = Scheduler({member.name: member.cache for member in members}, config)
        self._steps = 0
        # Longest context of each member in tokens: what the model allows, and what its cache can hold.
        self.max_context = {
            member.name: min(member.max_length, _longest_row(member.cache.num_blocks)) for member in members
        }

    @property
    def has_work(self) -> bool:
        """Whether any response is under way."""
        return len(self._scheduler) > 0

    def add(self, request: SequenceRequest) -> None:
        """Queue a response.

        Raises:
            ValueError: the id is taken, a weighted member is unknown or has no prompt, a prompt is empty or holds a token
                outside the vocabulary, a weight is not finite, no member is weighted, or prompt and ``max_tokens`` exceed a
                member's context.
        """
        self._check(request)
        self._scheduler.add(Running.begin(request))

    def change(self, sequence_id: str, mix: Mapping[str, float]) -> int:
        """Give a response under way new weights; returns the index of the first token drawn under them.

        A member whose weight leaves 0 reads what it has missed first, in chunks; one whose weight becomes 0 gives its
        memory back.

        Raises:
            KeyError: no such response is under way.
            ValueError: as in :meth:`add`.
        """
        sequence = self._scheduler.get(sequence_id)
        self._check_mix(mix, sequence.request)
        before = sequence.active
        sequence.mix = dict(mix)
        for name in before:
            if name not in sequence.active:
                self._scheduler.release(sequence, name)
        return len(sequence.response)

    def abort(self, sequence_id: str) -> list[TokenOutput]:
        """End a response now; nothing when it is not under way."""
        try:
            sequence = self._scheduler.get(sequence_id)
        except KeyError:
            return []
        self._scheduler.remove(sequence)
        return [TokenOutput(sequence_id, len(sequence.response), -1, "abort")]

    def fail_all(self, message: str) -> list[TokenOutput]:
        """End every response under way with an error."""
        sequences = self._scheduler.all()
        return [TokenOutput(one.id, len(one.response), -1, "error", message) for one in sequences]

    @torch.inference_mode()
    def step(self) -> list[TokenOutput]:
        """Run one step; the tokens it drew."""
        step = self._scheduler.schedule()
        self._steps += 1
        logits = {name: self.members[name].forward(chunks) for name, chunks in step.chunks.items()}
        if not step.drawing:
            return []
        mixed = mix_logits(_contributions(step, logits), len(step.drawing))
        return self._emit(step.drawing, mixed)

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
            len(scheduler.running), len(scheduler.waiting), scheduler.preemptions, self._steps, usage
        )

    def check_integrity(self) -> None:
        """Raise ``AssertionError`` when the books do not balance; when idle every block must be free."""
        for member in self.members.values():
            member.cache.check_integrity()
            if not self.has_work:
                assert member.cache.free_blocks == member.cache.num_blocks

    def _emit(self, drawing: list[Running], mixed: torch.Tensor) -> list[TokenOutput]:
        """Draw, append, report, and retire what has ended."""
        sound = torch.isfinite(mixed.amax(-1)).tolist()
        if not all(sound):
            # A row of NaN must not reach the sampler; the sequence ends with an error, its neighbours go on.
            mixed = torch.where(torch.tensor(sound, device=mixed.device)[:, None], mixed, 0.0)
        draws = [sequence.request.sampling.draw(sequence.position) for sequence in drawing]
        tokens = sample(mixed, draws).tolist()
        logprobs = _logprobs(drawing, mixed, tokens)
        outputs = []
        for row, sequence in enumerate(drawing):
            outputs.append(self._advance(sequence, tokens[row], logprobs.get(row), sound[row]))
        return outputs

    def _advance(
        self, sequence: Running, token: int, logprobs: TokenLogprobs | None, sound: bool
    ) -> TokenOutput:
        index = len(sequence.response)
        if not sound:
            self._scheduler.remove(sequence)
            message = "the mixed distribution is not finite: a model overflowed or a weight is too large"
            return TokenOutput(sequence.id, index, -1, "error", message)
        sequence.response.append(token)
        reason = sequence.finish_reason()
        if reason is not None:
            self._scheduler.remove(sequence)
        return TokenOutput(sequence.id, index, token, reason, None, logprobs)

    def _check(self, request: SequenceRequest) -> None:
        if request.id in self._scheduler:
            raise ValueError(f"id {request.id!r} is already under way")
        for name, prompt in request.prompts.items():
            if name not in self.members:
                raise ValueError(f"prompts: there is no member {name!r}; there are {', '.join(self.members)}")
            if not prompt:
                raise ValueError(f"prompts: {name} has an empty prompt")
            if len(prompt) + request.sampling.max_tokens > self.max_context[name]:
                raise ValueError(
                    f"{name} reads at most {self.max_context[name]} tokens; its prompt has {len(prompt)} and "
                    f"max_tokens is {request.sampling.max_tokens}"
                )
            size = self.members[name].input_size
            if min(prompt) < 0 or max(prompt) >= size:
                raise ValueError(f"prompts: {name} has a token outside its vocabulary of {size}")
        self._check_mix(request.mix, request)

    def _check_mix(self, mix: Mapping[str, float], request: SequenceRequest) -> None:
        for name, weight in mix.items():
            if name not in self.members:
                raise ValueError(f"mix: there is no member {name!r}; there are {', '.join(self.members)}")
            if not abs(weight) < float("inf"):
                raise ValueError(f"mix: the weight of {name} is {weight}; it must be finite")
            if weight != 0 and name not in request.prompts:
                raise ValueError(f"mix: {name} is weighted in but has no prompt")
        if not any(mix.values()):
            raise ValueError("mix: at least one member needs a weight other than 0")


def _longest_row(blocks: int) -> int:
    """Tokens of the largest row capacity that ``blocks`` blocks can hold."""
    length = blocks * BLOCK
    while capacity_for(length) > blocks * BLOCK:
        length -= BLOCK
    return length


def _contributions(step: Step, logits: Mapping[str, torch.Tensor]) -> list[Contribution]:
    """Each member's logits with the batch rows and weights they go to."""
    row_of = {sequence.id: row for row, sequence in enumerate(step.drawing)}
    contributions = []
    for name, chunks in step.chunks.items():
        rows = [row_of[str(chunk.owner)] for chunk in chunks if chunk.wants_logits]
        if rows:
            weights = [step.drawing[row].mix[name] for row in rows]
            contributions.append(Contribution(logits[name], rows, weights))
    return contributions


def _logprobs(drawing: list[Running], mixed: torch.Tensor, tokens: list[int]) -> dict[int, TokenLogprobs]:
    """Log-probs for the rows that asked for them."""
    reports: dict[int, TokenLogprobs] = {}
    for row, sequence in enumerate(drawing):
        count = sequence.request.sampling.logprobs
        if count is None:
            continue
        values = mixed[row].log_softmax(-1)
        best, ids = values.topk(min(count, values.shape[0]))
        top = tuple(zip(ids.tolist(), best.tolist(), strict=True))
        reports[row] = TokenLogprobs(values[tokens[row]].item(), top)
    return reports
