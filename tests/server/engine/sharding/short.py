"""``genarm`` whose caches run out of memory once after every SIGUSR1: ``python -m tests.server.engine.sharding.short serve …``"""

import signal
import sys
from collections.abc import Hashable

import torch

from server import cli
from server.engine.cache.kv_cache import KVCache


class Shortage:
    """In the place of ``KVCache.reserve``."""

    def __init__(self) -> None:
        self._real = KVCache.reserve
        self._armed = False

    def arm(self) -> None:
        self._armed = True

    def install(self) -> None:
        def reserve(cache: KVCache, owner: Hashable, length: int) -> bool:
            if self._armed:
                self._armed = False
                raise torch.OutOfMemoryError("no memory for a row")
            return self._real(cache, owner, length)

        KVCache.reserve = reserve  # type: ignore[method-assign]


def main() -> int:
    shortage = Shortage()
    shortage.install()
    signal.signal(signal.SIGUSR1, lambda *_: shortage.arm())
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
