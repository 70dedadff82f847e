"""GET, POST and DELETE of /v1/admin/rewards: which rewards new requests may weight."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from server.access.caller import Caller
from server.api.body import documented, json_body
from server.api.refusals import refusals
from server.api.schema.admin import (
    AdminReward,
    AdminRewards,
    RemovedReward,
    RewardRequest,
    ServedReward,
)
from server.api.serving import Server, Serving
from server.config import RewardSettings
from server.errors import Forbidden, UnknownRoute, clip

PATH = "/v1/admin/rewards"

EXAMPLES = {"replace": {"name": "harmless", "model": "./harmless-arm-2"}}


def administrator(request: Request) -> None:
    """Lets nobody in but who may change what is served.

    Raises:
        UnknownRoute: the server has no keys, so nobody may: as if there were no such route.
        Forbidden: the key is another's.
    """
    caller: Caller = request.state.caller
    if not caller.owner:
        raise UnknownRoute(f"Unknown request URL: {request.method} {clip(request.url.path)}.")
    if not caller.admin:
        raise Forbidden("This needs an administrator's key.")


router = APIRouter(prefix=PATH, dependencies=[Depends(administrator)])

Body = Annotated[RewardRequest, Depends(json_body(RewardRequest))]


@router.get("", responses=refusals(401, 403, 404, 503))
@router.head("", include_in_schema=False)
async def rewards(server: Server) -> AdminRewards:
    """The rewards as they are declared, and what is still there of those that went."""
    return AdminRewards(
        object="list",
        data=[AdminReward(**_shown(server, reward)) for reward in server.deployment.rewards],
        leaving=list(server.rewards.leaving),
        system_fingerprint=server.runtime.fingerprint,
    )


@router.post(
    "",
    responses={
        201: {"model": ServedReward, "description": "The reward is new"},
        **refusals(400, 401, 403, 404, 409, 413, 415, 503),
    },
    openapi_extra=documented(RewardRequest, EXAMPLES),
)
async def put(body: Body, server: Server, response: Response) -> ServedReward:
    """Adds a reward, or replaces the one of its name, once its model is loaded and has passed its test: 201 or 200. Answers under
    way keep what they began with.
    """
    settings, is_new = await server.rewards.put(body.name, _given(body))
    response.status_code = 201 if is_new else 200
    return ServedReward(**_shown(server, settings), system_fingerprint=server.runtime.fingerprint)


@router.delete("/{name}", responses=refusals(401, 403, 404, 409, 503))
async def remove(name: str, server: Server) -> RemovedReward:
    """Takes a reward away from new requests."""
    await server.rewards.remove(name)
    fingerprint = server.runtime.fingerprint
    return RemovedReward(object="reward.deleted", name=name, deleted=True, system_fingerprint=fingerprint)


def _given(body: RewardRequest) -> dict[str, Any]:
    """The fields that were sent. Null is as if a field were not there, but for those that may be nothing."""
    nothing = ("reference", "chat_template")
    sent = body.model_dump(exclude_unset=True)
    return {name: value for name, value in sent.items() if value is not None or name in nothing}


def _shown(server: Serving, settings: RewardSettings) -> dict[str, Any]:
    members = {reward.name: reward.member for reward in server.roster.rewards}
    return {"object": "reward", **settings.model_dump(), "member": members[settings.name]}
