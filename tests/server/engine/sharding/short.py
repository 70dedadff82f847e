"""``genarm`` in which something fails after a signal: ``python -m tests.server.engine.sharding.short serve …``

SIGUSR1: a cache runs out of memory once. SIGUSR2: so does the forward of a model that this process has whole and runs by
transformers. SIGHUP: a forward of all ranks does not end.
"""

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch

from server import cli
from server.engine.cache.kv_cache import KVCache
from server.engine.stock import StockModel


class Fault:
    """Put in front of a method, it ``strikes`` once after each time that it was armed, where it ``applies`` to the method's
    owner."""

    def __init__(self, strikes: Callable[[], object], applies: Callable[[Any], bool]) -> None:
        self._strikes = strikes
        self._applies = applies
        self._armed = False

    def arm(self, *_: object) -> None:
        self._armed = True

    def before(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(owner: Any, *arguments: Any, **options: Any) -> Any:
            if self._armed and self._applies(owner):
                self._armed = False
                self._strikes()
            return method(owner, *arguments, **options)

        return call


def _run_out() -> None:
    raise torch.OutOfMemoryError("no memory")


def main() -> int:
    cache = Fault(_run_out, lambda _: True)
    forward = Fault(_run_out, lambda stock: stock._loaded.ranks == 1)
    together = Fault(threading.Event().wait, lambda stock: stock._loaded.ranks > 1)
    KVCache.reserve = cache.before(KVCache.reserve)  # type: ignore[method-assign]
    StockModel.forward = together.before(forward.before(StockModel.forward))  # type: ignore[method-assign]
    signal.signal(signal.SIGHUP, together.arm)
    signal.signal(signal.SIGUSR1, cache.arm)
    signal.signal(signal.SIGUSR2, forward.arm)
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
