"""POST /v1/responses, streamed and not: a chat in OpenAI's newer words. Nothing is stored."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from server.api import sse
from server.api.body import documented, json_body
from server.api.chat import ChatRequest
from server.api.choice import Token
from server.api.departure import unless_gone
from server.api.generation import Generation
from server.api.guided import guidance_report
from server.api.logprobs import chat_logprobs
from server.api.refusals import GENERATING, Responses, refusals, streamed
from server.api.response_input import AskedChat
from server.api.response_output import Output
from server.api.schema.chat import ContentLogprob
from server.api.schema.responses import (
    FunctionTool,
    IncompleteDetails,
    InputTokensDetails,
    ItemStatus,
    OutputTokensDetails,
    ReasoningReport,
    ResponseChunk,
    ResponseError,
    ResponseEvent,
    ResponseObject,
    ResponseRequest,
    ResponseState,
    ResponseUsage,
    TextReport,
    ToolReport,
)
from server.api.serving import Server, Serving
from server.api.usage import usage
from server.errors import ApiError, InvalidRequest, NotFound

router = APIRouter(prefix="/v1/responses")

EXAMPLES = {
    "plain": {
        "model": "genarm-demo",
        "input": "How do I unclog the kitchen drain?",
        "max_output_tokens": 60,
    },
    "guided": {
        "model": "genarm-demo",
        "instructions": "Be brief.",
        "input": [{"role": "user", "content": "How do I unclog the kitchen drain?"}],
        "preferences": {"helpful": 0.7, "harmless": 0.3},
        "max_output_tokens": 60,
        "stream": True,
    },
}

WHEN = "The response; with `stream`, named events, the last of which holds the whole response"
ANSWER: Responses = {200: streamed(ResponseObject, ResponseChunk)[200] | {"description": WHEN}}

Body = Annotated[ResponseRequest, Depends(json_body(ResponseRequest))]


@router.post(
    "",
    response_model=None,
    responses=ANSWER | refusals(*GENERATING),
    openapi_extra=documented(ResponseRequest, EXAMPLES),
)
async def create(body: Body, request: Request, server: Server) -> Response:
    """An answer to a text or a chat, guided by the request's preferences."""
    exchange = Exchange(body, request, server)
    generation = await exchange.begin()
    if body.stream:
        return sse.EventStream(exchange.events(generation), generation, server.dispatcher)
    return await exchange.whole(generation)


@router.api_route("/{id}", methods=["GET", "DELETE"], include_in_schema=False)
@router.api_route("/{id}/cancel", methods=["POST"], include_in_schema=False)
@router.api_route("/{id}/input_items", methods=["GET"], include_in_schema=False)
async def stored(id: str) -> Response:  # noqa: ARG001
    """There are none to read, delete or cancel."""
    raise NotFound("Responses are not stored: there is none with this id.", param="id")


class Exchange:
    """One request from its checked body to its response: a chat, and the words that differ.

    Raises:
        Unavailable, ModelNotFound, InvalidRequest: what can be told before anything is tokenized.
    """

    def __init__(self, body: ResponseRequest, request: Request, server: Serving) -> None:
        _check(body)
        self._body = body
        self._request = request
        self._server = server
        self._asked = AskedChat(body)
        with self._asked.named():
            self._chat = ChatRequest(self._asked.body, request, server, kind="response", prefix="resp_")
        self._runtime = server.runtime

    async def begin(self) -> Generation:
        """Gives the chat to the engine."""
        with self._asked.named():
            return await self._server.dispatcher.begin(self._chat.claim, self._chat.prepare)

    async def whole(self, generation: Generation) -> Response:
        """The response in one piece; a client that leaves meanwhile ends the work."""
        try:
            answer = await unless_gone(self._last(generation), self._request)
        finally:
            self._server.dispatcher.abandon(generation)
        if answer is None:
            return Response(status_code=499)
        return Response(answer.model_dump_json(exclude_unset=True), media_type="application/json")

    async def events(self, generation: Generation) -> AsyncIterator[bytes]:
        """The response as it is made, numbered, each event under its name."""
        output, number = Output(), 0
        async with aclosing(self._told(generation, output)) as told:
            async for event in told:
                named = f"event: {event.type}\n".encode()
                yield named + sse.event(event.model_copy(update={"sequence_number": number}))
                number += 1

    async def _told(self, generation: Generation, output: Output) -> AsyncGenerator[ResponseEvent]:
        try:
            async with aclosing(self._story(generation, output)) as story:
                async for event in story:
                    yield event
        except ApiError as error:
            for event in output.break_off():
                yield event
            failure = ResponseError(code="server_error", message=error.message)
            yield ResponseState(
                type="response.failed",
                response=self._response(generation, output, status="failed", error=failure),
            )

    async def _last(self, generation: Generation) -> ResponseObject:
        async with aclosing(self._story(generation, Output())) as story:
            async for event in story:
                last = event
        assert isinstance(last, ResponseState), "a story ends with the response"
        return last.response

    async def _story(self, generation: Generation, output: Output) -> AsyncGenerator[ResponseEvent]:
        """From "created" to the response's end.

        Raises:
            ApiError: the request failed, after what came before.
        """
        for name in ("created", "in_progress"):
            yield ResponseState(type=f"response.{name}", response=self._response(generation, output))
        message, tokens, finish = self._chat.message(), list[Token](), None
        async with aclosing(generation.pieces()) as pieces:
            async for piece in pieces:
                tokens += piece.tokens
                delta = message.push(piece.text)
                if piece.finish_reason is not None:
                    delta, finish = message.end(piece.finish_reason)
                if delta is not None:
                    for event in output.push(delta, self._logprobs(tokens)):
                        yield event
                    tokens.clear()
        status: ItemStatus = "incomplete" if finish == "length" else "completed"
        for event in output.end(status):
            yield event
        yield ResponseState(
            type=f"response.{status}", response=self._response(generation, output, status=status)
        )

    def _logprobs(self, tokens: list[Token]) -> list[ContentLogprob]:
        if not self._body.logprobs:
            return []
        return chat_logprobs(tokens, self._runtime.tokenizer.token_bytes).content

    def _response(
        self,
        generation: Generation,
        output: Output,
        *,
        status: Any = "in_progress",
        error: ResponseError | None = None,
    ) -> ResponseObject:
        body, ticket, over = self._body, generation.ticket, status != "in_progress"
        report = {"guidance": guidance_report(generation, summary=body.report != "none")} if over else {}
        return ResponseObject(
            id=ticket.id,
            object="response",
            created_at=ticket.created,
            status=status,
            completed_at=int(time.time()) if status == "completed" else None,
            background=False,
            error=error,
            incomplete_details=IncompleteDetails(reason="max_output_tokens")
            if status == "incomplete"
            else None,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            max_tool_calls=None,
            metadata=dict(body.metadata or {}),
            model=ticket.model,
            output=output.items(),
            parallel_tool_calls=body.parallel_tool_calls is not False,
            previous_response_id=None,
            prompt_cache_key=body.prompt_cache_key,
            reasoning=ReasoningReport(effort=None, summary=None),
            safety_identifier=body.safety_identifier,
            service_tier="default",
            store=False,
            temperature=1.0 if body.temperature is None else body.temperature,
            text=_text(body),
            tool_choice=_tool_choice(body),
            tools=[_tool(tool) for tool in body.tools or ()],
            top_logprobs=body.top_logprobs or 0,
            top_p=1.0 if body.top_p is None else body.top_p,
            truncation="disabled",
            usage=_usage(generation) if over else None,
            user=body.user,
            system_fingerprint=self._runtime.fingerprint,
            **report,
        )


def _check(body: ResponseRequest) -> None:
    """Rules that span fields."""
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("'stream_options' is only allowed with 'stream': true.", param="stream_options")
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest(
            "'top_logprobs' is only allowed with 'message.output_text.logprobs' in 'include'.",
            param="top_logprobs",
        )
    if body.report == "tokens":
        raise InvalidRequest(
            "'guidance.report' = tokens is not offered here; /v1/chat/completions has it.",
            param="guidance.report",
            code="not_offered",
        )


def _usage(generation: Generation) -> ResponseUsage:
    counted = usage(generation, generation.tokens)
    return ResponseUsage(
        input_tokens=counted.prompt_tokens,
        input_tokens_details=InputTokensDetails(
            cached_tokens=counted.prompt_tokens_details.cached_tokens, cache_write_tokens=0
        ),
        output_tokens=counted.completion_tokens,
        output_tokens_details=OutputTokensDetails(
            reasoning_tokens=counted.completion_tokens_details.reasoning_tokens
        ),
        total_tokens=counted.total_tokens,
        **({} if counted.search is None else {"search": counted.search}),
    )


def _text(body: ResponseRequest) -> TextReport:
    asked = body.text.format if body.text else None
    if asked is None:
        return TextReport(format={"type": "text"})
    return TextReport(format=asked.model_dump(by_alias=True, exclude_none=True))


def _tool_choice(body: ResponseRequest) -> str | dict[str, Any]:
    asked = body.tool_choice or "auto"
    return asked if isinstance(asked, str) else asked.model_dump(exclude_none=True)


def _tool(tool: FunctionTool) -> ToolReport:
    return ToolReport(
        type="function",
        name=tool.name,
        description=tool.description,
        parameters=tool.parameters,
        strict=True,
    )
