"""What Ray costs is told per token and to the first one, with the samples behind it."""

import json

import pytest

from server.bench.scenarios.replicas import Overhead


@pytest.fixture
def overhead() -> Overhead:
    return Overhead(
        "a stream through Ray",
        ((0.030, 0.050, 0.040), (0.020, 0.020, 0.010)),
        ((0.012, 0.011, 0.013), (0.010, 0.010, 0.010)),
    )


def test_the_row_has_medians_and_their_differences(overhead: Overhead) -> None:
    row = overhead.row()
    assert row.ours == "through Ray: first 40.0 ms, then 12.00 ms"
    assert row.peer == "plain: first 20.0 ms, then 10.00 ms"
    assert row.value == "+20.0 ms, +2.00 ms a token"
    assert row.spread == "+1.00 – +3.00 ms a token"
    assert overhead.reached


def test_all_samples_are_recorded(overhead: Overhead) -> None:
    record = json.loads(json.dumps(overhead.record()))
    assert record["our_ttfts"] == [0.030, 0.050, 0.040]
    assert record["peer_gaps"] == [0.010, 0.010, 0.010]
