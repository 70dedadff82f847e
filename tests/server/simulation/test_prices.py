"""From tokens a second to what a million of them costs."""

import pytest

from server.simulation.prices import cost_per_million, replica_hours_per_million


def test_a_million_tokens() -> None:
    # 10 replicas, 1,000 tokens a second together: 1,000 seconds of each.
    assert replica_hours_per_million(10, 1000.0) == pytest.approx(10 * 1000 / 3600)
    assert cost_per_million(3.6, 10, 1000.0) == pytest.approx(10.0)
    assert cost_per_million(0.0, 10, 1000.0) == 0.0


def test_nothing_for_nothing_has_no_price() -> None:
    with pytest.raises(ValueError, match="throughput"):
        replica_hours_per_million(1, 0.0)
    with pytest.raises(ValueError, match="price"):
        cost_per_million(-1.0, 1, 1.0)
