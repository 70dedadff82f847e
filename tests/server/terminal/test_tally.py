"""The figures of an answer."""

from server.terminal.service import GuidedToken, Summary
from server.terminal.tally import Tally


def test_figures_grow_with_the_tokens_and_end_with_the_servers_own() -> None:
    tally = Tally()
    assert tally.figures() == ["0 tokens"]
    tally.add([GuidedToken("a", 0.5, -1.0, {})], 1, 10.0)
    assert tally.figures() == ["1 token", "KL 0.500 nats/token"]
    tally.add([GuidedToken("b", 0.1, -1.0, {}), GuidedToken("c", 0.0, -1.0, {})], 2, 10.5)
    tally.add([], 0, 99.0)
    assert tally.figures() == ["3 tokens", "4.0 tokens/s", "KL 0.200 nats/token"]
    whole = Summary(mean_kl=0.25, flip_rate=0.125, cancelled=False)
    assert tally.figures(whole) == ["3 tokens", "4.0 tokens/s", "KL 0.250 nats/token", "flips 12%"]


def test_what_a_server_does_not_report_is_left_out() -> None:
    tally = Tally()
    tally.add([], 1, 1.0)
    assert tally.figures(Summary(None, None, cancelled=False)) == ["1 token"]
