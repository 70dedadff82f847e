"""What is served: the model, its presets as further model ids, and the rewards that can be weighted."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from server.api.serving import Server, Serving
from server.config import NamedSettings
from server.decoding import METHODS, described
from server.errors import ModelNotFound

router = APIRouter(prefix="/v1")


@router.get("/models")
@router.head("/models", include_in_schema=False)
async def models(server: Server) -> dict[str, Any]:
    """The served model and one entry per preset."""
    return {"object": "list", "data": [_model(server, name) for name in _ids(server)]}


@router.get("/models/{id:path}")
@router.head("/models/{id:path}", include_in_schema=False)
async def model(id: str, server: Server) -> dict[str, Any]:
    """One of them."""
    if id not in _ids(server):
        raise ModelNotFound(id)
    return _model(server, id)


@router.get("/preferences")
@router.head("/preferences", include_in_schema=False)
async def preferences(server: Server) -> dict[str, Any]:
    """The rewards that can be weighted, the other models by role, the methods and their parameters, the presets."""
    deployment = server.deployment
    conditioned = server.roster.conditioned
    rewards = [
        {
            "name": reward.name,
            "description": reward.description,
            "default": reward.default,
            "range": list(reward.range),
        }
        for reward in deployment.rewards
    ]
    return {
        "object": "list",
        "data": rewards,
        "policies": [_named(policy) for policy in deployment.policies],
        "scorers": [_named(scorer) for scorer in deployment.scorers],
        "objectives": [
            {"name": name, "description": ""} for name in (conditioned.objectives if conditioned else ())
        ],
        "methods": [described(method, server.roster) for method in METHODS],
        "presets": {name: dict(weights) for name, weights in deployment.presets.items()},
    }


def _named(model: NamedSettings) -> dict[str, str]:
    return {"name": model.name, "description": model.description}


def _ids(server: Serving) -> tuple[str, ...]:
    name = server.deployment.model
    return (name, *(f"{name}:{preset}" for preset in server.deployment.presets))


def _model(server: Serving, id: str) -> dict[str, Any]:
    return {"id": id, "object": "model", "created": server.started, "owned_by": "genarm"}
