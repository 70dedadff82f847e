"""Transfer-Q* (arXiv 2405.20495): each of the k best next tokens is judged by the reward of what an aligned model makes of it."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from server.decoding.method import Parameters
from server.decoding.row import BASE
from server.decoding.search.action import (
    Answer,
    Grow,
    Result,
    Round,
    Score,
    Scored,
    Search,
    Text,
    grow,
    score_after_one,
)
from server.decoding.search.method import SearchParameters
from server.decoding.search.roles import Rewarded, read_roles
from server.decoding.search.task import Roles, Task
from server.decoding.weighed import Weighed
from server.decoding.weighing import chosen

if TYPE_CHECKING:
    from server.decoding.roster import Roster
    from server.engine import TokenOutput

NOTE_EVERY = 8
"""Tokens between two words about where the search stands."""


class TransferQParameters(SearchParameters):
    """``guidance`` keys of Transfer-Q*."""

    k: int = Field(10, ge=1, le=4096, description="next tokens that are looked at, the language model's best")
    w: float = Field(
        1.0, ge=-1000, le=1000, description="weight of the reward against the log-prob; 0 is off"
    )
    rollout_tokens: int = Field(20, ge=0, le=4096, description="greedy tokens behind each of them")
    policy: str | None = Field(None, description="the policy that makes them; null is the base")

    def weighed(self, preferences: Mapping[str, float], roster: Roster) -> Weighed:
        """As every search, but that what tokens are chosen by is multiplied by ``w``; at 0 nothing is."""
        common = super().weighed(preferences, roster)
        judged = {name: self.w * weight for name, weight in common.judged.items()} if self.w else {}
        return replace(common, judged=judged)


class TransferQ(Rewarded):
    """Draws each token from softmax((log π(v) + w · r(y, v, rollout)) / T) over the k best v; T = 0 takes the best."""

    name = "transfer_q"
    Parameters: type[Parameters] = TransferQParameters
    whole = False
    told = False

    def width(self, parameters: TransferQParameters) -> int:
        """One rollout per candidate."""
        return parameters.k

    def rewrites(self, parameters: TransferQParameters) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def roles(
        self, preferences: Mapping[str, float], parameters: TransferQParameters, roster: Roster
    ) -> Roles:
        """See ``SearchMethod``."""
        roles = read_roles(preferences, parameters, roster)
        if parameters.policy is None:
            return roles
        members = {policy.name: policy.member for policy in roster.policies}
        return replace(roles, policy=members[chosen(parameters.policy, list(members), "guidance.policy")])

    def search(self, task: Task) -> Search:
        """Token by token: propose, roll out, score, draw."""
        return _Walk(task).run()


class _Walk:
    """The text so far, and the sequences that have read it: the language model's, a rollout's and a score's."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._parameters: TransferQParameters = task.parameters
        self._text = Text()
        self._stopped = task.watch() if task.watch is not None else None
        self._rolled: str | None = None
        self._read: str | None = None
        self._seen: list[tuple[Text, Scored]] = []  # each candidate with its rollout, and its score

    def run(self) -> Search:
        """The answer, once a token ends it."""
        value: float | None = None
        nats = 0.0
        while self._text.finish_reason is None:
            candidates = yield from self._propose()
            rewards: list[float] = [0.0] * len(candidates)
            if self._parameters.w:
                rewards = yield from self._judge(candidates)
            logits = [
                _logprob(one) + self._parameters.w * reward
                for one, reward in zip(candidates, rewards, strict=True)
            ]
            nats += _divergence(logits, [_logprob(one) for one in candidates])
            chosen = self._draw([one.token for one in candidates], logits)
            value = rewards[chosen] if self._parameters.w else None
            self._append(candidates[chosen])
            if self._seen:
                rollout, read = self._seen[chosen]
                self._rolled, self._read = rollout.held, read.held
        alone = not any(weight for name, weight in self._task.roles.mix.items() if name != BASE)
        return Answer(self._text, value, kl=nats if alone else None)

    def _propose(self) -> Generator[Round, Sequence[Result], list[TokenOutput]]:
        """The k best next tokens, as if each had been drawn."""
        task, stops = self._task, self._task.sampling.stop_token_ids
        waits = len(self._text) < task.sampling.min_tokens
        count = max(self._parameters.k + (len(stops) if waits else 0), task.sampling.logprobs or 0)
        sampling = replace(task.sampling, max_tokens=len(self._text) + 1, temperature=0.0, logprobs=count)
        at = len(self._text)
        note = f"transfer_q, {at} of {task.max_tokens} tokens" if at % NOTE_EVERY == 0 else ""
        action = Grow(
            task.prompts, self._text, task.roles.mix, sampling, parent=self._text.held, watched=False
        )
        (grown,) = yield from grow([action], kept=(self._rolled, self._read), note=note)
        self._text = replace(self._text, held=grown.held)
        last = grown.drawn[-1]
        assert last.logprobs is not None, "they were asked for"
        top = [(token, value) for token, value in last.logprobs.top if not (waits and token in stops)]
        return [self._candidate(last, token, value) for token, value in top[: self._parameters.k]]

    def _candidate(self, like: TokenOutput, token: int, logprob: float) -> TokenOutput:
        from server.engine import TokenLogprobs

        assert like.logprobs is not None
        asked = self._task.sampling.logprobs
        logprobs = TokenLogprobs(logprob, like.logprobs.top[: asked or 0])
        return replace(like, token=token, logprobs=logprobs, finish_reason=None)

    def _judge(self, candidates: Sequence[TokenOutput]) -> Generator[Round, Sequence[Result], list[float]]:
        """The reward of each candidate with its rollout behind it."""
        task = self._task
        texts = [Text((*self._text.drawn, one)) for one in candidates]
        limit = min(len(self._text) + 1 + self._parameters.rollout_tokens, task.max_tokens)
        going = [
            place
            for place, one in enumerate(candidates)
            if len(texts[place]) < limit and one.token not in task.sampling.stop_token_ids
        ]
        sampling = replace(task.sampling, temperature=0.0, max_tokens=limit, min_tokens=0, logprobs=None)
        rollouts = [
            Grow(
                task.prompts,
                texts[place],
                {task.roles.policy: 1.0},
                sampling,
                self._rolled or self._text.held,
                watched=False,
                plain=True,
            )
            for place in going
        ]
        rolled = yield from grow(rollouts, kept=(self._text.held, self._read))
        for place, text in zip(going, rolled, strict=True):
            texts[place] = text
        scored = yield from score_after_one(
            [Score(task.prompts, text, task.roles.score, parent=self._read) for text in texts],
            kept=(self._text.held, *(text.held for text in texts)),
        )
        self._seen = list(zip(texts, scored, strict=True))
        return [one.value for one in scored]

    def _draw(self, tokens: Sequence[int], scores: Sequence[float]) -> int:
        """Which candidate is drawn from softmax(scores / T), with the noise that an ordinary draw of this token has."""
        import torch

        from server.engine.sampling.sampler import Draw, sample

        sampling = self._task.sampling
        row = torch.full((1, max(tokens) + 1), -torch.inf)
        row[0, list(tokens)] = torch.tensor(scores, dtype=torch.float32)
        position = len(self._task.prompts["base"]) + len(self._text)
        token = int(sample(row, [Draw(sampling.seed, position, sampling.temperature)]))
        return tokens.index(token)

    def _append(self, output: TokenOutput) -> None:
        """The text with one token more, which may be its last."""
        drawn = (*self._text.drawn, output)
        stopped = self._stopped is not None and self._stopped(output.token)
        over = "length" if len(drawn) >= self._task.max_tokens else None
        reason = "stop" if stopped or output.token in self._task.sampling.stop_token_ids else over
        self._text = Text(drawn, reason, self._text.held)


def _logprob(output: TokenOutput) -> float:
    assert output.logprobs is not None
    return output.logprobs.logprob


def _divergence(logits: Sequence[float], base: Sequence[float]) -> float:
    """KL(softmax(logits) ‖ π_base) in nats; ``base`` are the base's log-probs of the same tokens, among all others."""
    highest = max(logits)
    total = highest + math.log(sum(math.exp(one - highest) for one in logits))
    return sum(math.exp(one - total) * (one - total - other) for one, other in zip(logits, base, strict=True))
