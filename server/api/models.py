"""What is served to a caller: the model, its presets as further model ids, and the rewards that can be weighted."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from server.access import Caller, Range
from server.api.caller import Sender
from server.api.serving import Server, Serving
from server.config import RewardSettings
from server.decoding import METHODS, described
from server.errors import ModelNotFound

router = APIRouter(prefix="/v1")


@router.get("/models")
@router.head("/models", include_in_schema=False)
async def models(server: Server, sender: Sender) -> dict[str, Any]:
    """The served model and one entry per preset."""
    return {"object": "list", "data": [_model(server, name) for name in _ids(server, sender)]}


@router.get("/models/{id:path}")
@router.head("/models/{id:path}", include_in_schema=False)
async def model(id: str, server: Server, sender: Sender) -> dict[str, Any]:
    """One of them."""
    if id not in _ids(server, sender):
        raise ModelNotFound(id)
    return _model(server, id)


@router.get("/preferences")
@router.head("/preferences", include_in_schema=False)
async def preferences(server: Server, sender: Sender) -> dict[str, Any]:
    """The rewards that can be weighted, the other models by role, the methods and their parameters, the presets."""
    deployment = server.deployment
    conditioned = server.roster.conditioned
    return {
        "object": "list",
        "data": [_reward(reward, sender) for reward in deployment.rewards],
        "policies": [_named(policy.name, policy.description, sender) for policy in deployment.policies],
        "scorers": [_named(scorer.name, scorer.description, sender) for scorer in deployment.scorers],
        "objectives": [_named(name, "", sender) for name in (conditioned.objectives if conditioned else ())],
        "methods": [described(method, server.roster) for method in METHODS],
        "presets": {
            name: dict(weights) for name, weights in deployment.presets.items() if sender.may_ask_for(name)
        },
    }


def _reward(reward: RewardSettings, sender: Caller) -> dict[str, Any]:
    """What a slider begins at and shows is what the caller may give."""
    allowed = sender.ranges.get(reward.name, Range())
    return {
        "name": reward.name,
        "description": reward.description,
        "default": allowed.nearest(reward.default),
        "range": list(allowed.part(*reward.range)),
        **_allowed(reward.name, sender),
    }


def _named(name: str, description: str, sender: Caller) -> dict[str, Any]:
    return {"name": name, "description": description, **_allowed(name, sender)}


def _allowed(name: str, sender: Caller) -> dict[str, Any]:
    """The weights α/β that the caller may give, where they are bounded."""
    return {"allowed": list(sender.ranges[name].bounds)} if name in sender.ranges else {}


def _ids(server: Serving, sender: Caller) -> tuple[str, ...]:
    name = server.deployment.model
    presets = (preset for preset in server.deployment.presets if sender.may_ask_for(preset))
    return (name, *(f"{name}:{preset}" for preset in presets))


def _model(server: Serving, id: str) -> dict[str, Any]:
    return {"id": id, "object": "model", "created": server.started, "owned_by": "genarm"}
