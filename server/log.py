"""Where the log goes."""

from __future__ import annotations

import logging
import sys


def log_to_stderr() -> None:
    """Lines as they are, to stderr, from this process on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("genarm")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
