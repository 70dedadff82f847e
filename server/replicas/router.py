"""Which replica a request goes to, as Ray Serve asks: alike ones to one replica, those about a running id to where it runs, and
none to one that does not answer, while there are others.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import ray
from ray.serve._private.common import ReplicaID, RunningReplicaInfo
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from server.replicas.errand import Errand, Gone
from server.replicas.homes import Homes
from server.replicas.rendezvous import order

AGAIN_SECONDS = 0.02
"""Between two attempts to reach a replica that does not take a request now."""

SILENT_SECONDS = 2.0
"""After which a replica that was sent a request and has not even said that it has it gets others only where nobody else does."""


class AffinityRouter(RequestRouter):
    """Reads the ``Errand`` that is the first argument of each call. ``full``, ``more``: see ``rendezvous.order``. ``gateways``:
    so many send requests, each about as many.
    """

    def initialize_state(self, *, full: int, more: int | None = None, gateways: int = 1) -> None:
        """Serve calls this with ``request_router_kwargs``."""
        self._full = full
        self._more = more
        self._gateways = gateways
        self._under_way: Counter[ReplicaID] = Counter()  # what was sent there from here
        self._unheard: dict[ReplicaID, float] = {}  # since when replicas owe a word, in seconds
        self._homes = Homes()

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
        home = self._homes.of(errand.key)
        loaded = order(errand.key, loads, self._full, home, self._more)
        names = [name for name in loaded if name not in errand.shunned]
        names.sort(key=lambda name: self._is_silent(replicas[name]))
        if names and home not in loads:
            self._homes.settle(errand.key, names[0])
        return [[replicas[name]] for name in names]

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

    def on_send_request(self, replica_id: ReplicaID) -> None:
        """Serve calls this when a replica is sent a request."""
        super().on_send_request(replica_id)
        self._under_way[replica_id] += 1
        self._unheard.setdefault(replica_id, time.monotonic())

    def on_new_queue_len_info(self, replica_id: ReplicaID, num_ongoing_requests: int) -> None:
        """Serve calls this when a replica has said that it has a request, or does not take it."""
        super().on_new_queue_len_info(replica_id, num_ongoing_requests)
        self._unheard.pop(replica_id, None)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Serve calls this when a request is over there, whatever became of it."""
        super().on_request_completed(replica_id, internal_request_id)
        self._under_way[replica_id] = max(
            0, self._under_way[replica_id] - 1
        )  # it may not even have been sent
        self._unheard.pop(replica_id, None)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Serve calls this when replicas came or went."""
        super().update_replicas(replicas)
        self._unheard = {id: since for id, since in self._unheard.items() if id in self.curr_replicas}
        self._under_way = Counter(
            {id: sent for id, sent in self._under_way.items() if id in self.curr_replicas}
        )

    def _is_silent(self, replica: RunningReplica) -> bool:
        now = time.monotonic()
        return now - self._unheard.get(replica.replica_id, now) > SILENT_SECONDS

    def _load(self, replica: RunningReplica) -> int:
        """Requests under way there, as far as can be told from here. What replicas say of it is what it was when they last took a
        request: of a crowd that is gone, whatever came through other gateways would count on.
        """
        return self._under_way[replica.replica_id] * self._gateways

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
