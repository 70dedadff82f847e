"""Two sides are measured alike."""

from server.bench.comparison import Comparison, Side, compare, compare_all


def test_both_sides_run_equally_often_and_take_turns_at_going_first() -> None:
    calls: list[str] = []
    ours = Side("ours", lambda: calls.append("ours"), 10)
    peer = Side("peer", lambda: calls.append("peer"), 10)
    result = compare("turns", ours, peer, 2, 1.0, lambda: None)
    assert calls == ["ours", "peer", "ours", "peer", "peer", "ours"]
    assert len(result.our_rates) == len(result.peer_rates) == 2


def test_one_run_of_ours_stands_against_every_peer() -> None:
    calls: list[str] = []
    ours = Side("ours", lambda: calls.append("ours"), 10, warm=lambda: calls.append("warm"))
    peers = {name: Side(name, lambda name=name: calls.append(name), 10) for name in ("a", "b")}
    first, second = compare_all(ours, peers, 2, 1.0, lambda: None)
    assert calls == ["warm", "a", "b", "ours", "a", "b", "b", "a", "ours"]
    assert (first.name, second.name) == ("a", "b")
    assert first.our_rates == second.our_rates


def test_the_ratio_is_of_medians() -> None:
    result = Comparison("x", "ours", "peer", 1.0, (10.0, 30.0, 20.0), (5.0, 4.0, 100.0))
    assert result.ratio == 4.0
    assert result.spread == (0.2, 7.5)


def test_no_bar_is_said_to_be_none() -> None:
    assert Comparison("x", "ours", "peer", 0.0, (1.0,), (5.0,)).row().bar == "none"
