"""How many replicas of a deployment there are, what each of them gets, and which deployments they can serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from arm_models.errors import UserError
from server.config import Count, Deployment, Section, complaint

MOST_BODY = 64 << 20
"""Bytes of a body that Serve's proxy takes in: it reads on whether anybody wants more or not, so a body without end has to be cut
off there. ``http.max_body_bytes`` is not above it.
"""

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ReplicaSettings(Section):
    """What ``genarm deploy ray`` and the file of ``serve deploy`` say besides the deployment.

    Attributes:
        replicas: of the models, at least and to begin with.
        max_replicas: up to which Serve adds some while more than ``target_ongoing`` requests are under way on each; None: none.
        target_ongoing: None: ``engine.max_sequences``, a full batch.
        upscale_seconds, downscale_seconds: for how long there has to be more, or less, before a replica is added or ends.
        gateways: processes that requests meet first.
        num_cpus, num_gpus: that Ray reserves for each replica; the first is also its CPU threads, if the deployment says none.
        surge_percent: of the replicas, how many more there may be while a new version takes over; 0 where there is no room for
            any: then a replica of the old version ends before its successor begins.
    """

    replicas: Count = 1
    max_replicas: Count | None = None
    target_ongoing: Count | None = None
    upscale_seconds: Amount = 30.0
    downscale_seconds: Amount = 600.0
    gateways: Count = 1
    num_cpus: Amount = 1.0
    num_gpus: Amount = 0.0
    surge_percent: Annotated[int, Field(strict=True, ge=0, le=100)] = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError("max_replicas must not be below replicas")
        if self.target_ongoing is not None and self.max_replicas is None:
            raise ValueError("target_ongoing: says when replicas are added, which max_replicas has to allow")
        for name in ("upscale_seconds", "downscale_seconds"):
            if name in self.model_fields_set and self.max_replicas is None:
                raise ValueError(f"{name}: their number changes only where max_replicas allows it")
        return self


def read_settings(given: Mapping[str, Any], source: str) -> ReplicaSettings:
    """Checks what was given.

    Raises:
        UserError: one line that begins with ``source``.
    """
    try:
        return ReplicaSettings.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise UserError(f"{source}: {complaint(first['loc'], first['type'], first['msg'])}") from None


def check_carried(deployment: Deployment) -> None:
    """A replica is one process: there is none for the other parts of a base that is split.

    Raises:
        UserError: it declares what replicas do not have.
    """
    processes = deployment.base.tensor_parallel
    if processes > 1:
        raise UserError(
            f"base.tensor_parallel is {processes}, but a replica on Ray is one process: it must be 1 here; `genarm serve` has a "
            "base that is split over several"
        )
    if deployment.http.max_body_bytes > MOST_BODY:
        raise UserError(
            f"http.max_body_bytes is {deployment.http.max_body_bytes}, but Serve's proxy takes in at most {MOST_BODY} bytes for "
            "a replica"
        )
