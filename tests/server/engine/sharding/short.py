"""``genarm`` that runs out of memory once after a signal: ``python -m tests.server.engine.sharding.short serve …``

SIGUSR1: a cache does. SIGUSR2: the forward of a model that this process has whole and runs by transformers.
"""

import signal
import sys
from collections.abc import Callable
from typing import Any

import torch

from server import cli
from server.engine.cache.kv_cache import KVCache
from server.engine.stock import StockModel


class Shortage:
    """Put in front of a method, it raises once after each time that it was armed, where ``applies`` to the method's owner."""

    def __init__(self, applies: Callable[[Any], bool]) -> None:
        self._applies = applies
        self._armed = False

    def arm(self, *_: object) -> None:
        self._armed = True

    def before(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(owner: Any, *arguments: Any, **options: Any) -> Any:
            if self._armed and self._applies(owner):
                self._armed = False
                raise torch.OutOfMemoryError("no memory")
            return method(owner, *arguments, **options)

        return call


def main() -> int:
    cache, forward = Shortage(lambda _: True), Shortage(lambda stock: stock._loaded.ranks == 1)
    KVCache.reserve = cache.before(KVCache.reserve)  # type: ignore[method-assign]
    StockModel.forward = forward.before(StockModel.forward)  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR1, cache.arm)
    signal.signal(signal.SIGUSR2, forward.arm)
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
