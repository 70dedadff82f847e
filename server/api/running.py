"""A request under way: look at it, change its weights, cancel it. Only the key that started it can."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from server.api import schema
from server.api.body import documented, json_body
from server.api.chat import changes
from server.api.generation import Generation
from server.api.schema import ChangeRequest
from server.api.serving import Server
from server.decoding import read_preferences
from server.errors import InvalidRequest

router = APIRouter(prefix="/v1/chat/completions/{id}")

Body = Annotated[ChangeRequest, Depends(json_body(ChangeRequest))]


def _generation(id: str, request: Request, server: Server) -> Generation:
    return server.dispatcher.find(id, request.state.owner)


Running = Annotated[Generation, Depends(_generation)]


@router.get("", response_model_exclude_unset=True)
async def state(generation: Running) -> schema.RunningState:
    """The weights now, and how many tokens there are."""
    ticket, now = generation.ticket, generation.guidance
    return schema.RunningState(
        id=ticket.id,
        object="chat.completion.state",
        created=ticket.created,
        model=ticket.model,
        status="running" if generation.tokens else "queued",
        tokens=generation.tokens,
        method=now.method.name,
        preferences=dict(now.preferences),
        beta=now.beta,
        changes=changes(generation),
    )


@router.patch("", openapi_extra=documented(ChangeRequest))
async def change(body: Body, generation: Running, server: Server) -> schema.Changed:
    """New preferences and/or a new β, from the token on whose index is answered."""
    beta = body.guidance.beta if body.guidance else None
    preferences = None
    if body.preferences is not None:
        preferences = read_preferences(body.preferences, server.deployment.reward_names)
    if preferences is None and beta is None:
        raise InvalidRequest(
            "Nothing to change: give 'preferences' and/or 'guidance.beta'.", param="preferences"
        )
    # One at a time: a change of β must not take back a change of preferences that is still on its way.
    async with generation.changing:
        guidance = generation.guidance.changed(preferences, beta)
        at_token = await server.dispatcher.change(generation, guidance)
    return schema.Changed(
        id=generation.ticket.id,
        object="chat.completion.change",
        at_token=at_token,
        preferences=dict(guidance.preferences),
        beta=guidance.beta,
    )


@router.delete("")
async def cancel(generation: Running, server: Server) -> schema.Cancelled:
    """Ends the answer with what it has; its stream ends well, with ``guidance.cancelled``."""
    server.dispatcher.cancel(generation)
    return schema.Cancelled(id=generation.ticket.id, object="chat.completion.deleted", deleted=True)
