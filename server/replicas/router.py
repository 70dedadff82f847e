"""Which replica a request goes to, as Ray Serve asks: alike ones to one replica, those about a running id to where it runs."""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.serve._private.common import ReplicaID, RunningReplicaInfo
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from server.replicas.errand import Errand, Gone
from server.replicas.rendezvous import order

AGAIN_SECONDS = 0.02
"""Between two attempts to reach a replica that does not take a request now."""


class AffinityRouter(RequestRouter):
    """Reads the ``Errand`` that is the first argument of each call. ``full``: see ``rendezvous.order``."""

    def initialize_state(self, *, full: int) -> None:
        """Serve calls this with ``request_router_kwargs``."""
        self._full = full

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """One replica a rank: Serve takes the first that has not more than it takes at all."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        loads = {name: self._load(replica) for name, replica in replicas.items()}
        errand: Errand = pending_request.args[0]
        return [[replicas[name]] for name in order(errand.key, loads, self._full)]

    async def _choose_replica_for_request(
        self, pending_request: PendingRequest, *, is_retry: bool = False
    ) -> RunningReplica:
        """What Serve awaits for each request. One that has to go to a certain replica does not wait in the queue of those that do
        not, and goes there even when that replica drains and gets no others any more.

        Raises:
            Gone: it is no more.
        """
        errand: Errand = pending_request.args[0]
        if errand.replica is None:
            chosen: RunningReplica = await super()._choose_replica_for_request(
                pending_request, is_retry=is_retry
            )
            return chosen
        if is_retry:
            await asyncio.sleep(AGAIN_SECONDS)
        return self._named(errand.replica)

    def _load(self, replica: RunningReplica) -> int:
        """Requests under way there, as far as they are known here."""
        known: int | None = self.replica_queue_len_cache.get(replica.replica_id)
        return known or 0

    def _named(self, name: str) -> RunningReplica:
        id = ReplicaID(unique_id=name, deployment_id=self._deployment_id)
        known: RunningReplica | None = self.curr_replicas.get(id)
        if known is not None:
            return known
        info: dict[str, Any] = {"node_id": None, "node_ip": None, "availability_zone": None}
        try:
            # Draining, or gone: Ray knows whether the actor is still there.
            return self.create_replica_wrapper(
                RunningReplicaInfo(id, actor_name=id.to_full_id_str(), max_ongoing_requests=1 << 30, **info)
            )
        except (ValueError, ray.exceptions.RayError):
            raise Gone(name) from None
