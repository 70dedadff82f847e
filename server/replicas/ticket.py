"""Ids of answers that say which replica they are of, to whoever has the secret; to others they are random.

An id is ``chatcmpl-`` and so on, then in hex: 12 random bytes, the replica's name hidden by a stream that only the secret and
these bytes give, and 12 bytes of HMAC-SHA256 over all that and the prefix. So nobody can make one, tell from one where it leads,
or move the replica of one into another; whose request it is, is looked at by the replica.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

_NONCE, _SIGNATURE = 12, 12
_LONGEST = 32  # bytes of a replica's name: as many as the stream has
_ID = re.compile(r"([a-z]{1,16}[-_])([0-9a-f]{50,112})")


class Tickets:
    """Makes and reads the ids of one deployment; ``secret``: at least 16 bytes, the same wherever its ids are made or read."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 16:
            raise ValueError("the secret must have at least 16 bytes")
        self._sealing = hmac.digest(secret, b"genarm ticket seal", hashlib.sha256)
        self._signing = hmac.digest(secret, b"genarm ticket signature", hashlib.sha256)

    def new(self, prefix: str, replica: str) -> str:
        """An id of ``replica``, whose name has 1 to 32 bytes."""
        name = replica.encode()
        if not 0 < len(name) <= _LONGEST:
            raise ValueError(f"a replica's name has 1 to {_LONGEST} bytes, not {len(name)}")
        nonce = secrets.token_bytes(_NONCE)
        sealed = nonce + self._masked(name, nonce)
        return prefix + (sealed + self._signature(prefix, sealed)).hex()

    def replica(self, id: str) -> str | None:
        """The replica that made this id; None where none of this deployment's did."""
        found = _ID.fullmatch(id)
        if found is None or len(found[2]) % 2:
            return None
        prefix, data = found[1], bytes.fromhex(found[2])
        sealed, signature = data[:-_SIGNATURE], data[-_SIGNATURE:]
        if not hmac.compare_digest(self._signature(prefix, sealed), signature):
            return None
        return self._masked(sealed[_NONCE:], sealed[:_NONCE]).decode()

    def _masked(self, name: bytes, nonce: bytes) -> bytes:
        stream = hmac.digest(self._sealing, nonce, hashlib.sha256)
        return bytes(one ^ other for one, other in zip(name, stream, strict=False))

    def _signature(self, prefix: str, sealed: bytes) -> bytes:
        return hmac.digest(self._signing, prefix.encode() + b"\0" + sealed, hashlib.sha256)[:_SIGNATURE]
