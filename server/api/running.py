"""A request under way: look at it, change its weights, cancel it. Only the key that started it can."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from server.api import schema
from server.api.body import documented, json_body
from server.api.caller import Sender
from server.api.generation import Generation
from server.api.guided import change_report, check_allowed, choice_changes
from server.api.schema import ChangeRequest
from server.api.serving import Server
from server.decoding import read_preferences
from server.errors import InvalidRequest

router = APIRouter()

CHAT = "/v1/chat/completions/{id}"
TEXT = "/v1/completions/{id}"
KINDS = {CHAT: "chat.completion", TEXT: "text_completion"}
"""What the requests behind each path answer with."""

EXAMPLES = {"steer": {"preferences": {"helpful": 0.2, "harmless": 1.5}, "guidance": {"beta": 1.0}}}

Body = Annotated[ChangeRequest, Depends(json_body(ChangeRequest))]


def _generation(id: str, request: Request, server: Server) -> Generation:
    return server.dispatcher.find(id, request.state.owner, KINDS[request.scope["route"].path])


Running = Annotated[Generation, Depends(_generation)]


@router.get(CHAT, response_model_exclude_unset=True)
@router.get(TEXT, response_model_exclude_unset=True)
@router.head(CHAT, include_in_schema=False, response_model_exclude_unset=True)
@router.head(TEXT, include_in_schema=False, response_model_exclude_unset=True)
async def state(generation: Running) -> schema.RunningState:
    """The weights now, and how many tokens there are."""
    ticket, now = generation.ticket, generation.guidance
    return schema.RunningState(
        id=ticket.id,
        object=f"{ticket.kind}.state",  # type: ignore[arg-type]
        created=ticket.created,
        model=ticket.model,
        status="running" if generation.tokens or generation.searches else "queued",
        tokens=generation.tokens,
        method=now.method.name,
        preferences=dict(now.preferences),
        beta=now.beta,
        changes=[change_report(generation, change) for change in generation.changes],
        **_progress(generation),
        **_choices(generation),
    )


@router.patch(CHAT, response_model_exclude_unset=True, openapi_extra=documented(ChangeRequest, EXAMPLES))
@router.patch(TEXT, response_model_exclude_unset=True, openapi_extra=documented(ChangeRequest, EXAMPLES))
async def change(body: Body, generation: Running, server: Server, sender: Sender) -> schema.Changed:
    """New preferences and/or a new β, from the token on whose index is answered."""
    beta = body.guidance.beta if body.guidance else None
    preferences = None
    if body.preferences is not None:
        began = generation.ticket.guidance
        # By the rewards it began with: those that came later have read nothing of it.
        preferences = read_preferences(began.method, body.preferences, began.roster)
    if preferences is None and beta is None:
        raise InvalidRequest(
            "Nothing to change: give 'preferences' and/or 'guidance.beta'.", param="preferences"
        )
    # One at a time: a change of β must not take back a change of preferences that is still on its way.
    async with generation.changing:
        guidance = generation.guidance.changed(preferences, beta)
        check_allowed(guidance, sender)
        made = await server.dispatcher.change(generation, guidance)
    return schema.Changed(
        id=generation.ticket.id,
        object=f"{generation.ticket.kind}.change",  # type: ignore[arg-type]
        at_token=made.at_token,
        preferences=dict(guidance.preferences),
        beta=guidance.beta,
        **choice_changes(generation, made),
    )


@router.delete(CHAT)
@router.delete(TEXT)
async def cancel(generation: Running, server: Server) -> schema.Cancelled:
    """Ends the answers with what they have; a stream ends well, with ``guidance.cancelled``."""
    server.dispatcher.cancel(generation)
    ticket = generation.ticket
    return schema.Cancelled(id=ticket.id, object=f"{ticket.kind}.deleted", deleted=True)  # type: ignore[arg-type]


def _progress(generation: Generation) -> dict[str, Any]:
    """Where the searches stand, if there are any."""
    if not generation.searches:
        return {}
    return {"progress": "; ".join(search.note for search in generation.searches.values())}


def _choices(generation: Generation) -> dict[str, Any]:
    """The state of each choice, where there are several."""
    if len(generation.choices) == 1:
        return {}
    states = [
        schema.ChoiceState(index=one.index, tokens=one.tokens, finish_reason=one.finish_reason)
        for one in generation.choices
    ]
    return {"choices": states}
