"""POST /v1/completions, streamed and not: prompts that every member reads as they are."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from server.api import schema, sse
from server.api.body import documented, json_body
from server.api.choice import Choice, FinishReason, Piece, Token
from server.api.departure import unless_gone
from server.api.dispatcher import Prepared
from server.api.generation import Generation
from server.api.guided import guidance_report, guided_tokens
from server.api.logprobs import CompletionLogprobs
from server.api.negative import blamed, negative_text
from server.api.places import Claim
from server.api.plan import Plan
from server.api.refusals import GENERATING, refusals, streamed
from server.api.schema import CompletionRequest
from server.api.serving import Server, Serving
from server.api.usage import usage
from server.api.written import written
from server.decoding import NEGATIVE, Guidance
from server.errors import ApiError, InvalidRequest
from server.text import RawPrompt

router = APIRouter()

MAX_TOKENS = 16
"""OpenAI's default."""

EXAMPLES = {
    "plain": {"model": "genarm-demo", "prompt": "The first thing to do is", "max_tokens": 20},
    "guided": {
        "model": "genarm-demo",
        "prompt": ["The first thing to do is", "Never"],
        "preferences": {"harmless": 1.5},
        "max_tokens": 20,
        "logprobs": 2,
        "echo": True,
    },
}

Body = Annotated[CompletionRequest, Depends(json_body(CompletionRequest))]


@router.post(
    "/v1/completions",
    response_model=None,
    responses=streamed(schema.Completion, schema.Completion) | refusals(*GENERATING),
    openapi_extra=documented(CompletionRequest, EXAMPLES),
)
async def create(body: Body, request: Request, server: Server) -> Response:
    """What may follow a text, or several, guided by the request's preferences."""
    asked = TextRequest(body, request, server)
    generation = await server.dispatcher.begin(asked.claim, asked.prepare)
    if body.stream:
        return sse.EventStream(asked.events(generation), generation, server.dispatcher)
    return await asked.whole(generation)


@dataclass
class Answer:
    """One choice as it is put together: the text and the tokens that are not sent yet."""

    begun: bool = False
    text: list[str] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class TextRequest:
    """One request from its checked body to its response.

    Raises:
        Unavailable, ModelNotFound, InvalidRequest: what can be told before anything is tokenized.
    """

    def __init__(self, body: CompletionRequest, request: Request, server: Serving) -> None:
        self._body = body
        self._request = request
        self._server = server
        _check(body)
        self._n = body.n or 1
        each = max(self._n, body.best_of or 1)
        counted = "best_of" if each > self._n else "n"
        self._plan = Plan(
            body,
            request,
            server,
            prompts=len(body.prompts),
            each=each,
            counted=counted,
            longest=body.max_tokens,
        )
        self._runtime = self._plan.runtime
        _check_tokens(body, self._runtime.vocab_size)
        if self._plan.search is not None:
            _check_searched(body, each > self._n)
        _check_scored(body, self._plan.guidance)
        self._token_bytes = self._runtime.tokenizer.token_bytes
        self._prompts: Sequence[RawPrompt] = ()

    @property
    def claim(self) -> Claim:
        """The places that its choices take."""
        return self._plan.claim

    async def prepare(self) -> Prepared:
        """Tokenizes; the generation, and the sequences that the engine is to run for it."""
        body, tokenizer = self._body, self._runtime.tokenizer
        echo = bool(body.echo)
        self._prompts = await self._server.tokenizers.run(
            lambda: [tokenizer.raw_prompt(prompt, echo=echo) for prompt in body.prompts], self.claim.owner
        )
        negative = await self._negative()
        prompts = [{**self._members(prompt.tokens), **negative} for prompt in self._prompts]
        ranked = self._plan.each > self._n
        read = body.logprobs if echo else None
        return self._plan.prepared(
            prompts,
            [self._room(prompt) for prompt in prompts],
            id=self._server.new_id("cmpl-"),
            kind="text_completion",
            logprobs=0 if ranked and body.logprobs is None else body.logprobs,
            prompt_logprobs=0 if body.max_tokens == 0 and read is None else read,
            continues=True,
        )

    def _members(self, tokens: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The prompt of every member that may be weighted in, the base first."""
        members = self._plan.guidance.members
        return {name: tokens for name in self._runtime.tokenizer.members if name in members}

    async def _negative(self) -> dict[str, tuple[int, ...]]:
        """The prompt of the base's second context, where there is one."""
        row = self._plan.guidance.row
        if row is None or row.negative is None:
            return {}
        negative, tokenizer = row.negative, self._runtime.tokenizer
        text = negative_text(negative)
        try:
            prompt = await self._server.tokenizers.run(lambda: tokenizer.raw_prompt(text), self.claim.owner)
        except InvalidRequest as error:
            raise blamed(error, negative) from error
        return {NEGATIVE: prompt.tokens}

    async def whole(self, generation: Generation) -> Response:
        """The response in one piece; a client that leaves meanwhile ends the work."""
        try:
            answers = await unless_gone(self._answers(generation), self._request)
        finally:
            self._server.dispatcher.abandon(generation)
        if answers is None:
            return Response(status_code=499)
        size = generation.tokens * (1 + (self._body.logprobs or 0))
        return await written(lambda: self._whole(generation, answers), size)

    def _whole(self, generation: Generation, answers: Sequence[Answer]) -> schema.Completion:
        choices = [
            self._choice(index, generation.choices[chosen], answers[chosen])
            for index, chosen in enumerate(self._best(answers))
        ]
        return self._completion(
            generation,
            choices,
            usage=usage(generation, generation.tokens),
            guidance=guidance_report(generation, summary=self._body.report != "none"),
        )

    async def events(self, generation: Generation) -> AsyncIterator[bytes]:
        """For each choice its text as it comes (with ``echo`` its prompt first) and its finish_reason; with the
        last of these ``guidance``; usage when asked for; [DONE].
        """
        options = self._body.stream_options or schema.StreamOptions()
        answers = [Answer() for _ in generation.choices]
        said = ended = 0

        def chunk(choices: list[schema.CompletionChoice], **extra: Any) -> bytes:
            if options.include_usage and "usage" not in extra:
                extra["usage"] = usage(generation, said) if options.continuous_usage_stats else None
            return sse.event(self._completion(generation, choices, **extra))

        try:
            async with aclosing(generation.pieces()) as pieces:
                async for piece in pieces:
                    if piece.note:
                        yield sse.comment(piece.note)
                        continue
                    said += len(piece.tokens)
                    ended += piece.finish_reason is not None
                    extra = {}
                    if ended == len(answers):
                        summary = self._body.report != "none"
                        extra = {"guidance": guidance_report(generation, summary=summary)}
                    answer = self._take(piece, answers[piece.index])
                    choice = self._choice(piece.index, generation.choices[piece.index], answer)
                    answers[piece.index] = Answer(begun=True)
                    yield chunk([choice], **extra)
            if options.include_usage:
                yield chunk([], usage=usage(generation, generation.tokens))
            yield sse.DONE
        except ApiError as error:
            yield sse.error_event(error)

    def _room(self, prompt: dict[str, tuple[int, ...]]) -> int:
        asked = self._body.max_tokens
        room = self._plan.room(prompt, asked, "prompt")
        return min(room, max(MAX_TOKENS, self._body.min_tokens or 0)) if asked is None else room

    async def _answers(self, generation: Generation) -> list[Answer]:
        answers = [Answer() for _ in generation.choices]
        async with aclosing(generation.pieces()) as pieces:
            async for piece in pieces:
                self._take(piece, answers[piece.index])
        return answers

    def _take(self, piece: Piece, answer: Answer) -> Answer:
        answer.text.append(piece.text)
        answer.tokens += piece.tokens
        answer.finish_reason = piece.finish_reason
        return answer

    def _best(self, answers: Sequence[Answer]) -> list[int]:
        """Of ``best_of`` choices to each prompt, the ``n`` with the highest log-prob per token, best first."""
        each = self._plan.each
        if each == self._n:
            return list(range(len(answers)))
        chosen = []
        for begin in range(0, len(answers), each):
            ranked = sorted(range(begin, begin + each), key=lambda index: _mean_logprob(answers[index]))
            chosen += ranked[::-1][: self._n]
        return chosen

    def _choice(self, index: int, choice: Choice, answer: Answer) -> schema.CompletionChoice:
        """What ``answer`` has of a choice, the echo of its prompt included unless it has begun before."""
        prompt = self._prompts[choice.index // self._plan.each]
        begins = not answer.begun
        extra: dict[str, Any] = {}
        logprobs = CompletionLogprobs(self._token_bytes, len(prompt.text))
        if begins and self._body.echo and self._body.logprobs is not None:
            # A choice that was ended before its prompt was read has none.
            logprobs.prompt(prompt, choice.prompt_logprobs or [None] * len(prompt.tokens))
        logprobs.answer(answer.tokens)
        if self._body.return_token_ids:
            if begins:
                extra["prompt_token_ids"] = list(prompt.tokens)
            extra["token_ids"] = [token.id for token in answer.tokens]
        if self._body.report == "tokens":
            extra["guidance"] = guided_tokens(answer.tokens, self._plan.guidance, self._token_bytes)
        return schema.CompletionChoice(
            index=index,
            text=(prompt.text if begins else "") + "".join(answer.text),
            logprobs=self._shown(logprobs),
            finish_reason=answer.finish_reason,
            **extra,
        )

    def _shown(self, logprobs: CompletionLogprobs) -> schema.CompletionLogprobs | None:
        if self._body.logprobs is None:
            return None
        return logprobs.take() if self._body.stream else logprobs.all()

    def _completion(
        self, generation: Generation, choices: list[schema.CompletionChoice], **extra: Any
    ) -> schema.Completion:
        ticket = generation.ticket
        return schema.Completion(
            id=ticket.id,
            object="text_completion",
            created=ticket.created,
            model=ticket.model,
            system_fingerprint=self._runtime.fingerprint,
            choices=choices,
            **extra,
        )


def _mean_logprob(answer: Answer) -> float:
    values = [token.logprobs.logprob for token in answer.tokens if token.logprobs is not None]
    return sum(values) / len(values) if values else -math.inf


def _check(body: CompletionRequest) -> None:
    """Rules that span fields."""
    n, best_of = body.n or 1, body.best_of
    if best_of is not None and best_of < n:
        raise InvalidRequest(f"'best_of' must be at least n, which is {n}.", param="best_of")
    if best_of is not None and best_of > n and body.stream:
        raise InvalidRequest(
            "'best_of' larger than n cannot be streamed: which are best is known only in the end.",
            param="best_of",
        )
    if body.max_tokens == 0 and not body.echo:
        raise InvalidRequest("'max_tokens' = 0 is only allowed with 'echo': true.", param="max_tokens")


def _check_searched(body: CompletionRequest, ranked: bool) -> None:
    """What goes with an answer that is searched for."""
    refused = {
        "best_of": ranked,
        "max_tokens": body.max_tokens == 0,
        "logprobs": bool(body.echo) and body.logprobs is not None,
    }
    for name, given in refused.items():
        if given:
            echoed = " together with 'echo'" if name == "logprobs" else ""
            raise InvalidRequest(
                f"'{name}'{echoed} is not offered where answers are searched for.", param=name
            )


def _check_scored(body: CompletionRequest, guidance: Guidance) -> None:
    """Candidates are scored where a token is drawn: a prompt has no log-probs under such a method."""
    scores = guidance.row is not None and guidance.row.candidates is not None
    if scores and body.echo and body.logprobs is not None:
        raise InvalidRequest(
            f"'logprobs' together with 'echo' is not offered for method '{guidance.method.name}'.",
            param="logprobs",
        )


def _check_tokens(body: CompletionRequest, vocab_size: int) -> None:
    """Every token id of a prompt is one the model knows."""
    several = not isinstance(body.prompt, str) and not isinstance(body.prompt[0], int)
    for number, prompt in enumerate(body.prompts):
        if isinstance(prompt, str) or max(prompt) < vocab_size:
            continue
        index = next(index for index, token in enumerate(prompt) if token >= vocab_size)
        place = f"prompt[{number}][{index}]" if several else f"prompt[{index}]"
        raise InvalidRequest(
            f"'{place}' is no token id of this model; they are the integers from 0 to {vocab_size - 1}.",
            param=place,
        )
