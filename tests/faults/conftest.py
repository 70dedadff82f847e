"""The servers that faults happen to: the same deployment that clients meet."""

from tests.clients.conftest import config, key, start

__all__ = ["config", "key", "start"]
