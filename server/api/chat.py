"""POST /v1/chat/completions, streamed and not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from server.api import schema, sse
from server.api.body import documented, json_body
from server.api.choice import Piece, Token
from server.api.departure import unless_gone
from server.api.dispatcher import Prepared
from server.api.generation import Generation, Ticket
from server.api.guided import guidance_report, guided_tokens
from server.api.history import template_messages
from server.api.logprobs import chat_logprobs
from server.api.message import Message, Reason
from server.api.negative import blamed, negative_chat
from server.api.places import Claim
from server.api.plan import Plan
from server.api.refusals import GENERATING, refusals, streamed
from server.api.schema import ChatCompletionRequest
from server.api.search_plan import Conversation
from server.api.serving import Server, Serving
from server.api.structure import Form, Structure
from server.api.usage import usage
from server.api.written import written
from server.decoding import BASE, NEGATIVE
from server.errors import ApiError, InvalidRequest
from server.text import Message as TemplateMessage
from server.text import Prompts

router = APIRouter()

EXAMPLES = {
    "plain": {
        "model": "genarm-demo",
        "messages": [{"role": "user", "content": "How do I unclog the kitchen drain?"}],
        "max_tokens": 60,
    },
    "guided": {
        "model": "genarm-demo",
        "messages": [{"role": "user", "content": "How do I unclog the kitchen drain?"}],
        "preferences": {"helpful": 0.7, "harmless": 0.3},
        "guidance": {"beta": 1.0, "report": "summary"},
        "max_tokens": 60,
        "stream": True,
    },
}

Body = Annotated[ChatCompletionRequest, Depends(json_body(ChatCompletionRequest))]


@router.post(
    "/v1/chat/completions",
    response_model=None,
    responses=streamed(schema.ChatCompletion, schema.ChatCompletionChunk) | refusals(*GENERATING),
    openapi_extra=documented(ChatCompletionRequest, EXAMPLES),
)
async def create(body: Body, request: Request, server: Server) -> Response:
    """An answer to a chat, or several, guided by the request's preferences."""
    asked = ChatRequest(body, request, server)
    generation = await server.dispatcher.begin(asked.claim, asked.prepare)
    if body.stream:
        return sse.EventStream(asked.events(generation), generation, server.dispatcher)
    return await asked.whole(generation)


@dataclass
class Answer:
    """One choice as it is put together: its message, and the tokens that are not sent yet."""

    message: Message
    tokens: list[Token] = field(default_factory=list)
    finish_reason: Reason | None = None


class ChatRequest:
    """One request from its checked body to its response.

    Routes that answer chats in other words give the ``kind`` of object they answer with and the ``prefix`` of its
    id.

    Raises:
        Unavailable, ModelNotFound, InvalidRequest: what can be told before anything is tokenized.
    """

    def __init__(
        self,
        body: ChatCompletionRequest,
        request: Request,
        server: Serving,
        *,
        kind: str = "chat.completion",
        prefix: str = "chatcmpl-",
    ) -> None:
        self._kind = kind
        self._prefix = prefix
        self._body = body
        self._request = request
        self._server = server
        _check(body)
        self._messages = template_messages(body.messages)
        self._structure = Structure(body)
        self._limit = _token_limit(body)
        self._plan = Plan(body, request, server, each=body.n or 1, longest=self._limit)
        self._runtime = self._plan.runtime
        self._token_bytes = self._runtime.tokenizer.token_bytes

    @property
    def claim(self) -> Claim:
        """The places that its choices take."""
        return self._plan.claim

    async def prepare(self) -> Prepared:
        """Tokenizes; the generation, and the sequences that the engine is to run for it."""
        body = self._body
        form, prompts = await self.read()
        return self._plan.prepared(
            [prompts],
            [self._plan.room(prompts, self._limit, "messages")],
            id=self._server.new_id(self._prefix),
            kind=self._kind,
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            grammar=form.grammar,
            continues=bool(body.continue_final_message),
            shown=form.shown,
            conversation=Conversation(
                self._messages, partial(self._read, members=self._plan.guidance.members)
            ),
        )

    async def read(self) -> tuple[Form, Prompts]:
        """What the answers must match, and what every member reads before them."""
        owner = self.claim.owner
        form = await self._structure.form(self._server, self._runtime, owner)
        return form, await self._server.tokenizers.run(self._prompts, owner)

    def _prompts(self) -> Prompts:
        guidance = self._plan.guidance
        prompts = dict(self._read(self._messages, guidance.members))
        negative = guidance.row.negative if guidance.row else None
        if negative is not None:
            goes_on = bool(self._body.continue_final_message)
            chat = negative_chat(self._messages, negative, goes_on=goes_on)
            try:
                prompts[NEGATIVE] = self._read(chat, {BASE})[BASE]
            except InvalidRequest as error:
                raise blamed(error, negative) from error
        return prompts

    def _read(self, messages: Sequence[TemplateMessage], members: Collection[str]) -> Prompts:
        return self._runtime.tokenizer.prompts(
            messages,
            tools=self._structure.tools,
            add_generation_prompt=self._body.add_generation_prompt is not False,
            continue_final_message=bool(self._body.continue_final_message),
            members=members,
        )

    def message(self) -> Message:
        """What a choice's text is made into."""
        return self._structure.message()

    async def whole(self, generation: Generation) -> Response:
        """The response in one piece; a client that leaves meanwhile ends the work."""
        try:
            answers = await unless_gone(self._answers(generation), self._request)
        finally:
            self._server.dispatcher.abandon(generation)
        if answers is None:
            return Response(status_code=499)
        size = generation.tokens * (1 + (self._body.top_logprobs or 0))
        return await written(lambda: self._completion(generation, answers), size)

    def _completion(self, generation: Generation, answers: Sequence[Answer]) -> schema.ChatCompletion:
        ticket = generation.ticket
        extra = {"prompt_token_ids": list(ticket.prompts[0])} if self._body.return_token_ids else {}
        return schema.ChatCompletion(
            id=ticket.id,
            object="chat.completion",
            created=ticket.created,
            model=ticket.model,
            system_fingerprint=self._runtime.fingerprint,
            choices=[self._choice(index, answer) for index, answer in enumerate(answers)],
            usage=usage(generation, generation.tokens),
            guidance=self._guidance(generation),
            **extra,
        )

    async def events(self, generation: Generation) -> AsyncIterator[bytes]:
        """For each choice its role, its text as it comes, its finish_reason; with the last of these
        ``guidance``; usage when asked for; [DONE].
        """
        ticket, options = generation.ticket, self._body.stream_options or schema.StreamOptions()
        answers = [Answer(self.message()) for _ in generation.choices]
        said = ended = 0

        def chunk(choices: list[schema.ChunkChoice], **extra: Any) -> bytes:
            if options.include_usage and "usage" not in extra:
                extra["usage"] = usage(generation, said) if options.continuous_usage_stats else None
            return sse.event(self._chunk(ticket, choices, extra))

        try:
            for index, answer in enumerate(answers):
                first = index == 0 and self._body.return_token_ids
                extra = {"prompt_token_ids": list(ticket.prompts[0])} if first else {}
                role = schema.Delta(role="assistant", content="", refusal=None)
                yield chunk([self._chunk_choice(index, answer, role)], **extra)
            async with aclosing(generation.pieces()) as pieces:
                async for piece in pieces:
                    if piece.note:
                        yield sse.comment(piece.note)
                        continue
                    said += len(piece.tokens)
                    ended += piece.finish_reason is not None
                    last = ended == len(answers)
                    guidance = {"guidance": self._guidance(generation)} if last else {}
                    choice = self._said(piece, answers[piece.index])
                    if choice is not None:
                        yield chunk([choice], **guidance)
            if options.include_usage:
                yield chunk([], usage=usage(generation, generation.tokens))
            yield sse.DONE
        except ApiError as error:
            yield sse.error_event(error)

    async def _answers(self, generation: Generation) -> list[Answer]:
        answers = [Answer(self.message()) for _ in generation.choices]
        async with aclosing(generation.pieces()) as pieces:
            async for piece in pieces:
                answer = answers[piece.index]
                answer.tokens += piece.tokens
                answer.message.push(piece.text)
                if piece.finish_reason is not None:
                    _, answer.finish_reason = answer.message.end(piece.finish_reason)
        return answers

    def _choice(self, index: int, answer: Answer) -> schema.ChatChoice:
        assert answer.finish_reason is not None, "pieces() ended without an error"
        logprobs = chat_logprobs(answer.tokens, self._token_bytes) if self._body.logprobs else None
        return schema.ChatChoice(
            index=index,
            message=answer.message.whole(),
            logprobs=logprobs,
            finish_reason=answer.finish_reason,
            **self._extra(answer.tokens, always=True),
        )

    def _said(self, piece: Piece, answer: Answer) -> schema.ChunkChoice | None:
        """The chunk of a piece; None when it shows nothing, and its tokens wait for the next that does."""
        answer.tokens += piece.tokens
        if piece.finish_reason is None:
            delta = answer.message.push(piece.text)
        else:
            delta, answer.finish_reason = answer.message.end(piece.finish_reason)
        return None if delta is None else self._chunk_choice(piece.index, answer, delta)

    def _chunk_choice(self, index: int, answer: Answer, delta: schema.Delta) -> schema.ChunkChoice:
        tokens, answer.tokens = answer.tokens, []
        shown = self._body.logprobs and tokens
        return schema.ChunkChoice(
            index=index,
            delta=delta,
            logprobs=chat_logprobs(tokens, self._token_bytes) if shown else None,
            finish_reason=answer.finish_reason,
            **self._extra(tokens, always=False),
        )

    def _extra(self, tokens: list[Token], *, always: bool) -> dict[str, Any]:
        """What a choice has beyond OpenAI's fields."""
        extra: dict[str, Any] = {}
        if self._body.return_token_ids:
            extra["token_ids"] = [token.id for token in tokens]
        if self._body.report == "tokens" and (tokens or always):
            extra["guidance"] = guided_tokens(tokens, self._plan.guidance, self._token_bytes)
        return extra

    def _guidance(self, generation: Generation) -> schema.GuidanceReport:
        return guidance_report(generation, summary=self._body.report != "none")

    def _chunk(
        self, ticket: Ticket, choices: list[schema.ChunkChoice], extra: dict[str, Any]
    ) -> schema.ChatCompletionChunk:
        return schema.ChatCompletionChunk(
            id=ticket.id,
            object="chat.completion.chunk",
            created=ticket.created,
            model=ticket.model,
            system_fingerprint=self._runtime.fingerprint,
            choices=choices,
            **extra,
        )


def _check(body: ChatCompletionRequest) -> None:
    """Rules that span fields."""
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("'top_logprobs' is only allowed with 'logprobs': true.", param="top_logprobs")
    if not body.continue_final_message:
        return
    if body.add_generation_prompt:
        raise InvalidRequest(
            "'continue_final_message' and 'add_generation_prompt' exclude each other.",
            param="continue_final_message",
        )
    if body.messages[-1].role != "assistant":
        raise InvalidRequest(
            "'continue_final_message' needs a last message by the assistant.", param="continue_final_message"
        )


def _token_limit(body: ChatCompletionRequest) -> int | None:
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidRequest("'max_tokens' and 'max_completion_tokens' differ; send one.", param="max_tokens")
    return new if new is not None else old
