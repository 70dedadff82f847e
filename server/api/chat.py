"""POST /v1/chat/completions, streamed and not."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from server.api import schema, sse
from server.api.body import documented, json_body
from server.api.generation import Generation, Ticket
from server.api.schema import ChatCompletionRequest
from server.api.serving import Server, Serving
from server.decoding import METHODS, Guidance, method_named, read_parameters, read_preferences
from server.errors import ApiError, ContextLengthExceeded, InvalidRequest, ModelNotFound
from server.runtime import Runtime
from server.text import Message, Prompts

if TYPE_CHECKING:
    from server.engine import SamplingParams, SequenceRequest

router = APIRouter()

GREEDY_BELOW = 1e-5
"""Temperatures this small draw the most likely token anyway; dividing logits by them would overflow."""

Body = Annotated[ChatCompletionRequest, Depends(json_body(ChatCompletionRequest))]


@router.post(
    "/v1/chat/completions",
    response_model=None,
    responses={200: {"model": schema.ChatCompletion}},
    openapi_extra=documented(ChatCompletionRequest),
)
async def create(body: Body, request: Request, server: Server) -> Response:
    """An answer to a chat, guided by the request's preferences."""
    asked = ChatRequest(body, request, server)
    generation = await server.dispatcher.begin(asked.prepare)
    if body.stream:
        return sse.EventStream(asked.events(generation), lambda: server.dispatcher.abandon(generation))
    return await asked.whole(generation)


class ChatRequest:
    """One request from its checked body to its response.

    Raises:
        Unavailable, ModelNotFound, InvalidRequest: what can be told before anything is tokenized.
    """

    def __init__(self, body: ChatCompletionRequest, request: Request, server: Serving) -> None:
        self._arrived = time.monotonic()
        self._body = body
        self._request = request
        self._server = server
        self._runtime: Runtime = server.runtime
        self._guidance = read_guidance(body, server)
        self._limit = _token_limit(body)
        _check(body, self._runtime)

    async def prepare(self) -> tuple[Generation, SequenceRequest]:
        """Tokenizes; the generation and the sequence that the engine is to run for it."""
        from server.engine import SequenceRequest

        tokenizer = self._runtime.tokenizer
        messages = [_message(message) for message in self._body.messages]
        prompts = await self._server.tokenizers.run(lambda: tokenizer.prompts(messages))
        state = self._request.state
        ticket = Ticket(
            id=f"chatcmpl-{secrets.token_hex(16)}",
            request_id=state.request_id,
            owner=state.owner,
            model=self._body.model,
            guidance=self._guidance,
            prompt_tokens=len(prompts["base"]),
            stops=self._body.stops,
            streamed=bool(self._body.stream),
            arrived=self._arrived,
        )
        sequence = SequenceRequest(
            id=ticket.id,
            prompts=prompts,
            mix=self._guidance.mix,
            sampling=self._sampling(prompts),
        )
        return Generation(ticket, tokenizer.detokenizer()), sequence

    async def whole(self, generation: Generation) -> Response:
        """The response in one piece; a client that leaves meanwhile ends the work."""
        try:
            text = await _unless_gone(_collected(generation), self._request)
        finally:
            self._server.dispatcher.abandon(generation)
        if text is None:
            return Response(status_code=499)
        ticket = generation.ticket
        message = schema.AnswerMessage(role="assistant", content=text, refusal=None)
        assert generation.finish_reason is not None, "pieces() ended without an error"
        choice = schema.Choice(
            index=0, message=message, logprobs=None, finish_reason=generation.finish_reason
        )
        answer = schema.ChatCompletion(
            id=ticket.id,
            object="chat.completion",
            created=ticket.created,
            model=ticket.model,
            system_fingerprint=self._runtime.fingerprint,
            choices=[choice],
            usage=_usage(ticket, generation.tokens),
            guidance=guidance_report(generation),
        )
        return Response(answer.model_dump_json(exclude_unset=True), media_type="application/json")

    async def events(self, generation: Generation) -> AsyncIterator[bytes]:
        """Role, text as it comes, finish_reason with ``guidance``, usage when asked for, [DONE]."""
        options = self._body.stream_options or schema.StreamOptions()
        tokens = 0

        def chunk(delta: schema.Delta | None, finish: Any = None, **extra: Any) -> bytes:
            choices = []
            if delta is not None:
                choices = [schema.ChunkChoice(index=0, delta=delta, logprobs=None, finish_reason=finish)]
            if options.include_usage and "usage" not in extra:
                running = _usage(generation.ticket, tokens) if options.continuous_usage_stats else None
                extra["usage"] = running
            return sse.event(self._chunk(generation.ticket, choices, extra))

        try:
            yield chunk(schema.Delta(role="assistant", content="", refusal=None))
            async with aclosing(generation.pieces()) as pieces:
                async for piece in pieces:
                    tokens = piece.tokens
                    yield chunk(schema.Delta(content=piece.text))
            tokens = generation.tokens
            yield chunk(schema.Delta(), generation.finish_reason, guidance=guidance_report(generation))
            if options.include_usage:
                yield chunk(None, usage=_usage(generation.ticket, tokens))
            yield sse.DONE
        except ApiError as error:
            yield sse.error_event(error)

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

    def _sampling(self, prompts: Prompts) -> SamplingParams:
        from server.engine import SamplingParams

        body, runtime = self._body, self._runtime
        temperature = 1.0 if body.temperature is None else body.temperature
        ends = set() if body.ignore_eos else set(runtime.eos_ids)
        return SamplingParams(
            max_tokens=_max_tokens(self._limit, prompts, runtime),
            temperature=0.0 if temperature < GREEDY_BELOW else temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            top_k=min(max(body.top_k or 0, 0), runtime.vocab_size),
            min_p=body.min_p or 0.0,
            seed=secrets.randbits(63) if body.seed is None else body.seed,
            stop_token_ids=frozenset(ends.union(body.stop_token_ids or ())),
        )


def read_guidance(body: ChatCompletionRequest, server: Serving) -> Guidance:
    """The guidance a request asks for: its own preferences, or its preset's, or the deployment's defaults.

    Raises:
        ModelNotFound: no such model or preset.
        InvalidRequest: no such method, parameter or preference; or weights the method refuses.
    """
    deployment = server.deployment
    weights = _model_weights(body.model, server)
    if body.preferences is not None:
        weights = read_preferences(body.preferences, deployment.reward_names)
    asked = body.guidance or schema.GuidanceFields()
    method = METHODS[0] if asked.method is None else method_named(asked.method)
    guidance = Guidance(method, read_parameters(method, asked.parameters), weights)
    _ = guidance.mix  # refuses now what it would refuse later
    return guidance


def guidance_report(generation: Generation) -> schema.GuidanceReport:
    """The ``guidance`` object of a response."""
    began = generation.ticket.guidance
    return schema.GuidanceReport(
        method=began.method.name,
        preferences=dict(began.preferences),
        beta=began.beta,
        changes=changes(generation),
        cancelled=generation.cancelled,
    )


def changes(generation: Generation) -> list[schema.Change]:
    """What was changed in mid-answer, in order."""
    return [
        schema.Change(
            at_token=change.at_token,
            preferences=dict(change.guidance.preferences),
            beta=change.guidance.beta,
        )
        for change in generation.changes
    ]


def _model_weights(model: str, server: Serving) -> dict[str, float]:
    deployment = server.deployment
    name, colon, preset = model.partition(":")
    if name != deployment.model or (colon and preset not in deployment.presets):
        raise ModelNotFound(model)
    return deployment.whole(deployment.presets[preset]) if colon else deployment.defaults


def _check(body: ChatCompletionRequest, runtime: Runtime) -> None:
    """Rules that span fields or depend on the models."""
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("'stream_options' is only allowed with 'stream': true.", param="stream_options")
    for index, token in enumerate(body.stop_token_ids or ()):
        if token >= runtime.vocab_size:
            raise InvalidRequest(
                f"'stop_token_ids' holds a token that is not in the vocabulary of {runtime.vocab_size}.",
                param=f"stop_token_ids[{index}]",
            )


def _token_limit(body: ChatCompletionRequest) -> int | None:
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidRequest("'max_tokens' and 'max_completion_tokens' differ; send one.", param="max_tokens")
    return new if new is not None else old


def _max_tokens(limit: int | None, prompts: Prompts, runtime: Runtime) -> int:
    """Tokens the answer may have: ``limit``, or what the tightest member's context leaves.

    Every reward counts, whatever its weight now, because weights may change in mid-answer.
    """
    member = min(prompts, key=lambda name: runtime.max_context[name] - len(prompts[name]))
    size, read = runtime.max_context[member], len(prompts[member])
    if read + (limit or 1) > size:
        raise ContextLengthExceeded(limit=size, prompt=read, answer=limit, member=member, param="messages")
    return limit or size - read


def _message(message: schema.ChatMessage) -> Message:
    """What a chat template sees; it knows "system", of which "developer" is the newer name."""
    role = "system" if message.role == "developer" else message.role
    extra = {"name": message.name, "tool_call_id": message.tool_call_id}
    return {
        "role": role,
        "content": message.text,
        **{key: value for key, value in extra.items() if value is not None},
    }


def _usage(ticket: Ticket, tokens: int) -> schema.Usage:
    return schema.Usage(
        prompt_tokens=ticket.prompt_tokens,
        completion_tokens=tokens,
        total_tokens=ticket.prompt_tokens + tokens,
    )


async def _collected(generation: Generation) -> str:
    async with aclosing(generation.pieces()) as pieces:
        return "".join([piece.text async for piece in pieces])


async def _unless_gone(work: Any, request: Request) -> str | None:
    """The result of ``work``, or None when the client leaves first: handlers are not cancelled for that by
    themselves.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for future in (task, gone):
            future.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
