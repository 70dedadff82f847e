"""The secret that ids are signed with: made once for a cluster, kept where all its processes find it.

It outlives every deployment, so ids stay valid while an old version drains behind a new one, and ends with the cluster.
"""

from __future__ import annotations

import secrets

_NAMESPACE = b"genarm"
_KEY = b"ticket-secret"


def cluster_secret() -> bytes:
    """The secret of the Ray cluster that this process is part of; whoever comes first makes it."""
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

    _internal_kv_put(_KEY, secrets.token_bytes(32), overwrite=False, namespace=_NAMESPACE)
    found: bytes = _internal_kv_get(_KEY, namespace=_NAMESPACE)
    return found
