"""POST /tokenize and /detokenize, GET /tokenizer_info: the base's tokenizer for clients that count or cut by
tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from server.access import Caller
from server.api.body import documented, json_body
from server.api.caller import Sender
from server.api.chat import ChatRequest
from server.api.models import model as known_model
from server.api.refusals import refusals
from server.api.schema import Answer, ChatCompletionRequest
from server.api.schema.tokenize import (
    Detokenized,
    DetokenizeRequest,
    TokenizeChat,
    Tokenized,
    TokenizeRequest,
    TokenizerInfo,
    TokenizeText,
)
from server.api.serving import Server, Serving
from server.errors import InvalidRequest, clip
from server.runtime import Runtime

router = APIRouter()

TOKENIZE: Mapping[str, Mapping[str, Any]] = {
    "text": {"prompt": "How do I unclog the kitchen drain?", "add_special_tokens": False},
    "chat": {"messages": [{"role": "user", "content": "How do I unclog the kitchen drain?"}]},
}
DETOKENIZE = {"tokens": {"tokens": [72, 105]}}

REFUSALS = (400, 401, 404, 413, 415, 429, 503)

Tokenize = Annotated[TokenizeRequest, Depends(json_body(TokenizeRequest))]
Detokenize = Annotated[DetokenizeRequest, Depends(json_body(DetokenizeRequest))]


@router.post(
    "/tokenize",
    response_model=None,
    responses={200: {"model": Tokenized}, **refusals(*REFUSALS)},
    openapi_extra=documented(TokenizeRequest, TOKENIZE),
)
async def tokenize(body: Tokenize, request: Request, server: Server, sender: Sender) -> Response:
    """The token ids of a text, or of a chat as the base reads it."""
    asked, runtime = body.root, server.runtime
    await _check_model(asked.model, server, sender)
    if isinstance(asked, TokenizeText):
        return await _answer(request, server, lambda: _tokenized(_encoded(asked, runtime), asked, runtime))
    _, prompts = await ChatRequest(_chat(asked, server), request, server).read()
    return await _answer(request, server, lambda: _tokenized(prompts["base"], asked, runtime))


@router.post(
    "/detokenize",
    response_model=None,
    responses={200: {"model": Detokenized}, **refusals(*REFUSALS)},
    openapi_extra=documented(DetokenizeRequest, DETOKENIZE),
)
async def detokenize(body: Detokenize, request: Request, server: Server, sender: Sender) -> Response:
    """The text of token ids."""
    runtime = server.runtime
    await _check_model(body.model, server, sender)
    return await _answer(request, server, lambda: _detokenized(body.tokens, runtime))


@router.get(
    "/tokenizer_info",
    response_model=None,
    responses={200: {"model": TokenizerInfo}, **refusals(401, 429, 503)},
)
@router.head("/tokenizer_info", include_in_schema=False)
async def tokenizer_info(request: Request, server: Server) -> Response:
    """Special tokens and chat template of the base."""
    runtime = server.runtime
    return await _answer(request, server, lambda: _info(runtime))


async def _check_model(model: str | None, server: Serving, sender: Caller) -> None:
    if model is not None:
        await known_model(model, server, sender)


async def _answer(request: Request, server: Serving, make: Callable[[], Answer]) -> Response:
    """What ``make`` gives; made and written in the tokenizer thread, for it may be megabytes."""
    body = await server.tokenizers.run(lambda: make().model_dump_json(), request.state.owner)
    return Response(body, media_type="application/json")


def _chat(asked: TokenizeChat, server: Serving) -> ChatCompletionRequest:
    """The chat whose prompt is asked for."""
    return ChatCompletionRequest(
        model=server.deployment.model if asked.model is None else asked.model,
        messages=asked.messages,
        tools=asked.tools,
        add_generation_prompt=asked.add_generation_prompt,
        continue_final_message=asked.continue_final_message,
    )


def _encoded(asked: TokenizeText, runtime: Runtime) -> tuple[int, ...]:
    special = asked.add_special_tokens is not False
    return runtime.tokenizer.codec.encode(asked.prompt, add_special_tokens=special)


def _tokenized(tokens: Sequence[int], asked: TokenizeText | TokenizeChat, runtime: Runtime) -> Tokenized:
    entries = runtime.tokenizer.codec.entries(tokens) if asked.return_token_strs else None
    return Tokenized(
        count=len(tokens), max_model_len=_limit(runtime), tokens=tuple(tokens), token_strs=entries
    )


def _detokenized(tokens: tuple[int, ...], runtime: Runtime) -> Detokenized:
    for index, token in enumerate(tokens):
        if token >= runtime.vocab_size:
            raise InvalidRequest(
                f"'tokens' holds {clip(token)}, which is not in the vocabulary of {runtime.vocab_size}.",
                param=f"tokens[{index}]",
                code="invalid_value",
            )
    return Detokenized(prompt=runtime.tokenizer.codec.decode(tokens))


def _info(runtime: Runtime) -> TokenizerInfo:
    return TokenizerInfo(**asdict(runtime.tokenizer.codec.info), model_max_length=_limit(runtime))


def _limit(runtime: Runtime) -> int:
    """Tokens that every member can read."""
    return min(runtime.max_context.values())
