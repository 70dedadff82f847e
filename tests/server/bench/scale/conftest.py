"""A tiny engine as the simulation knows it."""

from collections.abc import Callable

import pytest

from server.bench.setup import Setup
from server.engine import Engine
from server.simulation.limits import Limits


@pytest.fixture
def limits() -> Limits:
    """Room for a few short answers."""
    return Limits(64 * 40, max_sequences=4, max_queue=32)


@pytest.fixture
def engine(make_setup: Callable[..., Setup], limits: Limits) -> Engine:
    """A base and two rewards of the shape "tiny"."""
    return make_setup().engine(
        prefix_share=limits.prefix_share, max_sequences=limits.max_sequences, kv_tokens=limits.kv_tokens
    )
