"""How many replicas of a deployment there are, and what each of them gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from arm_models.errors import UserError
from server.config import Count, Section, complaint

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ReplicaSettings(Section):
    """What ``genarm deploy ray`` and the file of ``serve deploy`` say besides the deployment.

    Attributes:
        replicas: of the models, at least and to begin with.
        max_replicas: up to which Serve adds some while more than ``target_ongoing`` requests are under way on each; None: none.
        target_ongoing: None: ``engine.max_sequences``, a full batch.
        gateways: processes that requests meet first.
        num_cpus, num_gpus: that Ray reserves for each replica; the first is also its CPU threads, if the deployment says none.
        surge_percent: of the replicas, how many more there may be while a new version takes over; 0 where there is no room for
            any: then a replica of the old version ends before its successor begins.
    """

    replicas: Count = 1
    max_replicas: Count | None = None
    target_ongoing: Count | None = None
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
