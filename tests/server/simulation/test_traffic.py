"""Users are as the settings say, and the same for the same seed."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from server.simulation.traffic import Traffic, TrafficSettings, draw_crowd, draw_traffic

SETTINGS = TrafficSettings()


def test_they_come_at_the_rate_asked_for() -> None:
    traffic = draw_traffic(SETTINGS, 5.0, 20_000, seed=1)
    assert len(traffic) >= 20_000 - 5
    assert len(traffic) / traffic.starts[-1] == pytest.approx(5.0, rel=0.05)
    gaps = np.diff(traffic.starts)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # exponential


def test_bursts_keep_the_rate_and_lose_the_evenness() -> None:
    settings = TrafficSettings(burst=5.0, period=20.0)
    traffic = draw_traffic(settings, 5.0, 60_000, seed=2)
    assert len(traffic) / traffic.starts[-1] == pytest.approx(5.0, rel=0.15)
    assert traffic.starts == sorted(traffic.starts)
    counts = np.bincount((np.array(traffic.starts) / 2).astype(int))
    assert counts.var() > 3 * counts.mean()


def test_a_turn_goes_on_from_the_one_before() -> None:
    traffic = draw_traffic(SETTINGS, 1.0, 500, seed=3)
    for session, count in enumerate(traffic.counts):
        before = None
        for turn in range(count):
            request = traffic.request(session, turn)
            assert request.prompt.session == session
            assert request.prompt.system_tokens == 256
            least = 256 if before is None else before.prompt.tokens + before.output
            assert 16 <= request.prompt.tokens - least <= 128
            assert request.prompt.tokens + request.output <= SETTINGS.longest
            before = request


def test_sessions_end_before_they_are_too_long() -> None:
    traffic = draw_traffic(TrafficSettings(turns="8", longest=600), 1.0, 800, seed=4)
    assert 1 < np.mean(traffic.counts) < 8
    assert max(request.prompt.tokens + request.output for request in traffic.requests()) <= 600
    with pytest.raises(ValueError, match="no first turn"):
        draw_traffic(TrafficSettings(message="500", longest=600), 1.0, 10, seed=4)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_that_is_guided(share: float) -> None:
    traffic = draw_traffic(TrafficSettings(turns="1", guided=share, rewards=3), 1.0, 6000, seed=5)
    members = Counter(request.members for request in traffic.requests())
    guided = sum(count for each, count in members.items() if len(each) > 1)
    assert guided / len(traffic) == pytest.approx(share, abs=0.03)
    assert all(each[0] == 0 and list(each) == sorted(set(each)) for each in members)
    if share == 1.0:
        sizes = Counter(len(each) - 1 for each in members.elements())
        assert sizes[1] == pytest.approx(2000, rel=0.1)
        assert sizes[3] == pytest.approx(2000, rel=0.1)
        assert members[(0, 1)] == pytest.approx(members[(0, 3)], rel=0.2)


def test_systems_are_used_as_zipf_says() -> None:
    traffic = draw_traffic(TrafficSettings(systems=4), 1.0, 20_000, seed=6)
    counts = Counter(traffic.systems)
    assert counts[0] / counts[3] == pytest.approx(4, rel=0.15)


def test_the_rate_changes_only_when_they_come() -> None:
    slow, fast = draw_traffic(SETTINGS, 1.0, 300, seed=7), draw_traffic(SETTINGS, 4.0, 300, seed=7)
    assert (slow.prompts, slow.outputs, slow.groups) == (fast.prompts, fast.outputs, fast.groups)
    assert slow.starts == pytest.approx([4 * start for start in fast.starts])
    assert draw_traffic(SETTINGS, 1.0, 300, seed=8).prompts != slow.prompts


def test_a_crowd_has_the_same_users() -> None:
    crowd, others = draw_crowd(SETTINGS, 5, 200, seed=9), draw_traffic(SETTINGS, 1.0, 200, seed=9)
    assert isinstance(crowd, Traffic)
    assert crowd.at_once == 5
    assert crowd.prompts == others.prompts
    assert max(crowd.thinks) == 0
    with pytest.raises(ValueError, match="at_once"):
        draw_crowd(SETTINGS, 0, 200, seed=9)


@pytest.mark.parametrize(
    "changes",
    [
        {"guided": 1.5},
        {"rewards": 0},
        {"systems": 0},
        {"burst": 0.5},
        {"period": 0.0},
        {"turns": "none"},
        {"longest": 200},
        {"rewards": 13},
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        TrafficSettings(**changes)


@pytest.mark.parametrize(("rate", "count"), [(0.0, 10), (-1.0, 10), (float("nan"), 10), (1.0, 0)])
def test_nobody_at_no_rate(rate: float, count: int) -> None:
    with pytest.raises(ValueError, match="above 0"):
        draw_traffic(SETTINGS, rate, count, seed=0)
