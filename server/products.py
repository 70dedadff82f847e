"""How much torch keeps of what it makes for matrix products on a CPU."""

from __future__ import annotations

import os

KEPT_PRODUCTS = 256
"""For how many sizes code is kept. By themselves torch and oneDNN keep 1024, over half a MiB each."""


def bound_kept_products() -> None:
    """In this process; to be called before torch is imported, which reads these once."""
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KEPT_PRODUCTS))
