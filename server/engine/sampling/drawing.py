"""The tokens of a step: drawn where the logits are, and told when Python asks for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from server.engine.memory_fault import is_out_of_memory
from server.engine.output import TokenLogprobs, TokenReport
from server.engine.sampling.candidates import Judge, choose, rescore
from server.engine.sampling.divergence import limit
from server.engine.sampling.mix import Contribution, mix_logits
from server.engine.sampling.penalties import adjust
from server.engine.sampling.report import (
    RewardRows,
    measure_logprobs,
    measure_reports,
    read_logprobs,
    read_reports,
)
from server.engine.sampling.sampler import sample
from server.engine.sequence import Sequence as Running
from server.engine.transfer import Download, upload

NOT_FINITE = "the mixed distribution is not finite: a model overflowed or a weight is too large"
NOT_ALLOWED = "no token is allowed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row: a token and what is told about it; or, with a ``fault``, none."""

    token: int
    fault: str | None
    logprobs: TokenLogprobs | None
    report: TokenReport | None


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token for each of ``sequences``.

    ``tokens``: [rows] int64 on the device, some token where nothing could be drawn. ``faults``: rows known not to have one
    before the device was asked. ``reported``: rows that get a report, and by reward, which of these it was weighted in for.
    """

    sequences: list[Running]
    tokens: torch.Tensor
    faults: Mapping[int, str]
    reported: Sequence[int]
    rewards: Mapping[str, Sequence[int]]
    arriving: Download

    def outcomes(self) -> list[Outcome]:
        """Row by row; waits until the device has drawn them."""
        told = self.arriving.wait()
        counts = _logprob_counts(self.sequences)
        logprobs = (
            dict(zip(counts, read_logprobs(told, list(counts.values())), strict=True)) if counts else {}
        )
        reports = (
            dict(zip(self.reported, read_reports(told, self.rewards), strict=True)) if self.reported else {}
        )
        return [
            Outcome(token, self._fault(row, finite, possible), logprobs.get(row), reports.get(row))
            for row, (token, finite, possible) in enumerate(
                zip(told["tokens"], told["finite"], told["possible"], strict=True)
            )
        ]

    def _fault(self, row: int, finite: bool, possible: bool) -> str | None:
        if not finite:
            return NOT_FINITE
        return self.faults.get(row, None if possible else NOT_ALLOWED)


def draw(sequences: list[Running], parts: Mapping[str, Contribution], judge: Judge, *, sync: bool) -> Drawn:
    """Mix what the members say and draw a token of every sequence.

    Args:
        parts: by member, the base first where it has a part; a row for each of ``sequences``.
        judge: asks the scorers about candidates; called once where any row has some, else not.
        sync: whether Python may wait for the device meanwhile to save it work. Without, it waits only for what a grammar,
            penalties or candidates need.
    """
    powers = [one.request.power for one in sequences]
    mixed = mix_logits(list(parts.values()), len(sequences), powers)
    mixed, scales = _limited(sequences, mixed, parts, sync=sync)
    mixed = _scored(sequences, mixed, judge)
    mixed, finite = _sound(mixed, sync=sync)
    faults: dict[int, str] = {}
    adjusted, possible = _adjusted(sequences, mixed, faults), finite
    if adjusted is not mixed:
        adjusted, possible = _sound(adjusted, sync=sync)
    draws = [one.request.sampling.draw(one.position) for one in sequences]
    tokens = sample(adjusted, draws, sync=sync)
    reported = _reported(sequences)
    rewards = _reward_rows(parts, reported)
    told = {"tokens": tokens, "finite": finite, "possible": possible}
    told |= _logprobs(sequences, mixed, tokens)
    told |= _reports(reported, mixed, parts, rewards, tokens, scales)
    weighted = {name: of_one.rows for name, of_one in rewards.items()}
    return Drawn(sequences, tokens, faults, reported, weighted, Download(told))


def _scored(sequences: Sequence[Running], mixed: torch.Tensor, judge: Judge) -> torch.Tensor:
    """The mix with the candidates scored in the rows that ask for it."""
    rows = [row for row, one in enumerate(sequences) if one.candidates is not None]
    if not rows:
        return mixed
    # What a grammar trips over is told when the token is drawn.
    adjusted = _adjusted([sequences[row] for row in rows], _select(mixed, rows), {})
    chosen = choose(sequences, rows, adjusted)
    return rescore(sequences, mixed, chosen, judge(chosen))


def _logprobs(
    sequences: Sequence[Running], mixed: torch.Tensor, tokens: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Log-probs for the rows that asked for them."""
    counts = _logprob_counts(sequences)
    if not counts:
        return {}
    rows = list(counts)
    return measure_logprobs(_select(mixed, rows), _select(tokens, rows), max(counts.values()))


def _reports(
    rows: Sequence[int],
    mixed: torch.Tensor,
    parts: Mapping[str, Contribution],
    rewards: Mapping[str, RewardRows],
    tokens: torch.Tensor,
    scales: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """What guidance did, for these rows."""
    if not rows:
        return {}
    base = _base_rows(parts, rows).to(mixed.device)
    return measure_reports(_select(mixed, rows), base, rewards, _select(tokens, rows), _select(scales, rows))


def _sound(logits: torch.Tensor, *, sync: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits with 0 in rows that have no largest finite one, which must not reach the sampler; and which rows have, [rows]
    bool."""
    sound = logits.amax(-1).isfinite()
    if sync and bool(sound.all()):
        return logits, sound
    return torch.where(sound[:, None], logits, 0.0), sound


def _adjusted(sequences: Sequence[Running], mixed: torch.Tensor, faults: dict[int, str]) -> torch.Tensor:
    """The logits that are drawn from; ``mixed`` stays as it is. Rows whose grammar fails join ``faults``."""
    changed = [row for row, one in enumerate(sequences) if one.adjusts]
    if not changed:
        return mixed
    logits = mixed.clone()
    for row in changed:
        one = sequences[row]
        try:
            allowed = one.matcher.allowed() if one.matcher else None
        except Exception as error:  # whatever a grammar trips over is this response's alone
            if is_out_of_memory(error):
                raise  # the step is undone and the grammar asked again
            faults[row] = f"the grammar failed: {error}"
            continue
        adjust(logits[row], one.request.sampling, len(one.response), one.history, allowed)
    return logits


def _reported(sequences: Sequence[Running]) -> list[int]:
    """The rows that asked for a report."""
    return [row for row, one in enumerate(sequences) if one.request.report]


def _logprob_counts(sequences: Sequence[Running]) -> dict[int, int]:
    """How many of the best tokens are told, for the rows that asked for log-probs."""
    asked = {row: one.request.sampling.logprobs for row, one in enumerate(sequences)}
    return {row: count for row, count in asked.items() if count is not None}


def _limited(
    sequences: Sequence[Running], mixed: torch.Tensor, parts: Mapping[str, Contribution], *, sync: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mix with the rows that have a ``max_kl`` kept within it, and what is left of each row's weights [rows]."""
    limits = {row: one.request.max_kl for row, one in enumerate(sequences)}
    most = {row: bound for row, bound in limits.items() if bound is not None}
    scales = mixed.new_ones(mixed.shape[0])
    if not most:
        return mixed, scales
    rows = list(most)
    base = _base_rows(parts, rows).to(mixed.device)
    kept, left = limit(_select(mixed, rows), base, list(most.values()), sync=sync)
    index = upload(rows, mixed.device, torch.long)
    return mixed.index_copy(0, index, kept), scales.index_copy(0, index, left)


def _base_rows(parts: Mapping[str, Contribution], rows: Sequence[int]) -> torch.Tensor:
    """The base's logits [len(rows), vocab] for these batch rows; it is the first part."""
    base = next(iter(parts.values()))
    places = {row: place for place, row in enumerate(base.rows)}
    return _select(base.logits, [places[row] for row in rows])


def _reward_rows(parts: Mapping[str, Contribution], rows: Sequence[int]) -> dict[str, RewardRows]:
    """Every reward's logits for those of these batch rows that it is weighted in for."""
    rewards = {}
    for name, part in list(parts.items())[1:]:
        places = {row: place for place, row in enumerate(part.rows)}
        own = [number for number, row in enumerate(rows) if row in places]
        if own:
            chosen = [places[rows[number]] for number in own]
            rewards[name] = RewardRows(_select(part.logits, chosen), own)
    return rewards


def _select(tensor: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    return tensor.index_select(0, upload(rows, tensor.device, torch.long))
