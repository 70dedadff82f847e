"""What one request asks of the engine, whichever route it came by: how many choices, how each is drawn and
what ends it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from fastapi import Request

from server.access import Caller
from server.api.choice import Choice, Ending
from server.api.dispatcher import Prepared
from server.api.engine_row import asked
from server.api.generation import Generation, Ticket
from server.api.guided import check_allowed, read_guidance
from server.api.negative import blamed
from server.api.places import Claim
from server.api.schema import SamplingFields
from server.api.search import SearchRun
from server.api.search_plan import Conversation, SearchPlan
from server.api.serving import Serving
from server.config import HttpSettings
from server.decoding import NEGATIVE
from server.decoding.search import SearchMethod
from server.errors import ContextLengthExceeded, InvalidRequest, clip
from server.runtime import Runtime
from server.text import Prompts

if TYPE_CHECKING:
    from server.engine import Grammar, SamplingParams, SequenceRequest

GREEDY_BELOW = 1e-5
"""Temperatures this small draw the most likely token anyway; dividing logits by them would overflow."""

_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")


class Plan:
    """The choices of one request.

    Args:
        body: what all routes share, checked by itself; here it is checked against the deployment.
        request: whose id and owner the choices get.
        server: where it is to run.
        prompts: how many prompts there will be.
        each: choices to each prompt, as the field ``counted`` says.
        longest: tokens of an answer that are asked for, where any number is.

    Raises:
        Unavailable, ModelNotFound, InvalidRequest: what can be told before anything is tokenized.
    """

    def __init__(
        self,
        body: SamplingFields,
        request: Request,
        server: Serving,
        *,
        prompts: int = 1,
        each: int = 1,
        counted: str = "n",
        longest: int | None = None,
    ) -> None:
        self.arrived: float = getattr(request.state, "arrived", time.monotonic())
        self.body = body
        self.runtime: Runtime = server.runtime
        self.guidance = read_guidance(body, server, request.state.caller)
        self.search: SearchPlan | None = None
        if isinstance(self.guidance.method, SearchMethod):
            self.search = SearchPlan(self.guidance.method, self.guidance, body, server)
        width = 1 if self.search is None else self.search.width
        self.each = each
        caller: Caller = request.state.caller
        self.claim = Claim(caller.owner, prompts * each * width, self.arrived, caller.max_concurrent)
        self._state = request.state
        self._http = server.deployment.http
        self._bias = _bias(body, self.runtime)
        _check_choices(prompts, each, width, counted, caller, server)
        _check_answer(longest, body, self._http)
        _check_stops(body, self.runtime)
        if body.stream_options is not None and not body.stream:
            raise InvalidRequest(
                "'stream_options' is only allowed with 'stream': true.", param="stream_options"
            )

    def prepared(
        self,
        prompts: Sequence[Prompts],
        max_tokens: Sequence[int],
        *,
        id: str,
        kind: str,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
        grammar: Grammar | None = None,
        continues: bool = False,
        shown: frozenset[int] = frozenset(),
        conversation: Conversation | None = None,
    ) -> Prepared:
        """The request and what the engine is to do for it: ``each`` choices to a prompt, with its ``max_tokens`` at most.

        An answer that ``continues`` is one text with its prompt; special tokens of ``shown`` are part of an answer's text.
        The prompts are those of ``conversation``, if it is one.

        Raises:
            InvalidRequest: a search cannot do what is asked, or the caller may not weigh so.
        """
        check_allowed(self.guidance, self._state.caller)
        if self.search is not None:
            self.search.check(conversation, grammar)
        ticket = Ticket(
            id=id,
            kind=kind,
            request_id=self._state.request_id,
            owner=self._state.owner,
            model=self.body.model,
            guidance=self.guidance,
            prompts=[prompt["base"] for prompt in prompts],
            streamed=bool(self.body.stream),
            arrived=self.arrived,
            record=self._state.record,
        )
        choices: list[Choice] = []
        work: list[SequenceRequest | SearchRun] = []
        for prompt, limit in zip(prompts, max_tokens, strict=True):
            # Without a seed, prompts must not share one either: their answers would be drawn with the same noise.
            seed = secrets.randbits(63) if self.body.seed is None else self.body.seed
            before = prompt["base"] if continues else ()
            detokenizer = partial(self.runtime.tokenizer.detokenizer, before, shown=shown)
            for number in range(self.each):
                sampling = self._sampling(limit, choice_seed(seed, number), logprobs, prompt_logprobs)
                ending = self._ending(sampling)
                choice = Choice(f"{id}/{len(choices)}", len(choices), detokenizer(), ending)
                choices.append(choice)
                if self.search is None:
                    work.append(self._sequence(choice.sequence_id, prompt, sampling, grammar))
                    continue
                work.append(
                    self.search.run(
                        choice,
                        prompt,
                        sampling,
                        ending=ending,
                        detokenizer=detokenizer,
                        grammar=grammar,
                        conversation=conversation,
                        owner=self._state.owner,
                    )
                )
        return Generation(ticket, choices), work

    def _sequence(
        self, id: str, prompts: Prompts, sampling: SamplingParams, grammar: Grammar | None
    ) -> SequenceRequest:
        """One choice that is drawn from a row of the batch."""
        from server.engine import SequenceRequest

        row = self.guidance.row
        assert row is not None, "a method that is a row of the batch"
        return SequenceRequest(
            id=id,
            prompts=prompts,
            mix=row.mix,
            sampling=sampling,
            grammar=grammar,
            report=self.body.report != "none",
            max_kl=self.guidance.max_kl,
            salt=self._state.owner,
            owner=self._state.owner,
            **asked(row),
        )

    def room(self, prompts: Prompts, asked: int | None, param: str) -> int:
        """Tokens an answer may have: ``asked``, or what the tightest member's context and the deployment leave.

        Every member in ``prompts`` counts, whatever its weight now, because weights may change in mid-answer.

        Raises:
            ContextLengthExceeded: that is not there; ``param`` is where the prompt came from.
            InvalidRequest: the prompt is longer than the deployment reads, or ``min_tokens`` asks for more.
        """
        self._check_prompt(prompts, param)
        contexts = self.runtime.max_context
        member = min(prompts, key=lambda name: contexts[name] - len(prompts[name]))
        size, read = contexts[member], len(prompts[member])
        if read + (1 if asked is None else asked) > size:
            exceeded = ContextLengthExceeded(
                limit=size, prompt=read, answer=asked, member=member, param=param
            )
            negative = self.guidance.row.negative if self.guidance.row else None
            raise blamed(exceeded, negative) if negative and member == NEGATIVE else exceeded
        bound = self._http.max_output_tokens
        left = size - read if bound is None else min(bound, size - read)
        room = left if asked is None else asked
        if (self.body.min_tokens or 0) > room:
            raise InvalidRequest(
                f"'min_tokens' is larger than the {room} tokens this answer may have.", param="min_tokens"
            )
        return room

    def _check_prompt(self, prompts: Prompts, param: str) -> None:
        """Raises InvalidRequest for a prompt that is longer, as any member reads it, than the deployment reads."""
        bound = self._http.max_prompt_tokens
        member = max(prompts, key=lambda name: len(prompts[name]))
        if bound is None or len(prompts[member]) <= bound:
            return
        error = InvalidRequest(
            f"This deployment reads prompts of at most {bound} tokens; the {param} here are "
            f"{len(prompts[member])} as {member} reads them.",
            param=param,
            code="context_length_exceeded",
        )
        negative = self.guidance.row.negative if self.guidance.row else None
        raise blamed(error, negative) if negative and member == NEGATIVE else error

    def _sampling(
        self, max_tokens: int, seed: int, logprobs: int | None, prompt_logprobs: int | None
    ) -> SamplingParams:
        from server.engine import SamplingParams

        body, runtime = self.body, self.runtime
        temperature = 1.0 if body.temperature is None else body.temperature
        ends = set() if body.ignore_eos else set(runtime.eos_ids)
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=0.0 if temperature < GREEDY_BELOW else temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            top_k=min(max(body.top_k or 0, 0), runtime.vocab_size),
            min_p=body.min_p or 0.0,
            seed=seed,
            stop_token_ids=frozenset(ends.union(body.stop_token_ids or ())),
            min_tokens=body.min_tokens or 0,
            logit_bias=self._bias,
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )

    def _ending(self, sampling: SamplingParams) -> Ending:
        return Ending(
            stops=self.body.stops,
            stop_token_ids=sampling.stop_token_ids,
            min_tokens=sampling.min_tokens,
            shown=bool(self.body.include_stop_str_in_output),
        )


def choice_seed(seed: int, number: int) -> int:
    """The seed of choice ``number``: the request's own for the first, then ones that no neighbouring request
    has.
    """
    if number == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def _bias(body: SamplingFields, runtime: Runtime) -> dict[int, float]:
    """``logit_bias`` by token id."""
    bias = {}
    for key, value in (body.logit_bias or {}).items():
        if not _TOKEN_ID.fullmatch(key) or int(key) >= runtime.vocab_size:
            raise InvalidRequest(
                f"Invalid 'logit_bias': the key '{clip(key)}' is no token id of this model; "
                f"they are the integers from 0 to {runtime.vocab_size - 1}.",
                param=f"logit_bias.{clip(key)}",
            )
        bias[int(key)] = value
    return bias


def _check_choices(
    prompts: int, each: int, width: int, counted: str, caller: Caller, server: Serving
) -> None:
    cap, whose = min(server.deployment.http.max_choices, server.dispatcher.capacity), "deployment"
    if caller.max_concurrent is not None and caller.max_concurrent < cap:
        cap, whose = caller.max_concurrent, "key"
    if prompts * each * width <= cap:
        return
    if width > 1:
        raise InvalidRequest(
            f"This {whose} has at most {cap} sequences under way for a request; this one asks for "
            f"{prompts * each} searches of {width} at once.",
            param="guidance",
        )
    raise InvalidRequest(
        f"This {whose} makes at most {cap} choices for a request; "
        f"this one asks for {each} to each of {prompts} prompts.",
        param=counted if each > 1 else "prompt",
    )


def _check_answer(longest: int | None, body: SamplingFields, http: HttpSettings) -> None:
    bound = http.max_output_tokens
    if longest is None or bound is None or longest <= bound:
        return
    field = "max_tokens" if getattr(body, "max_completion_tokens", None) is None else "max_completion_tokens"
    raise InvalidRequest(
        f"'{field}' is larger than the {bound} tokens that an answer of this deployment may have.",
        param=field,
    )


def _check_stops(body: SamplingFields, runtime: Runtime) -> None:
    for index, token in enumerate(body.stop_token_ids or ()):
        if token >= runtime.vocab_size:
            raise InvalidRequest(
                f"'stop_token_ids' holds a token that is not in the vocabulary of {runtime.vocab_size}.",
                param=f"stop_token_ids[{index}]",
            )
