"""What does it cost that a request COULD ask what guidance did?"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from server.bench.comparison import Comparison, Side, compare
from server.bench.setup import Setup
from server.bench.workload import output_tokens

STAGES: dict[str, Any] = {
    "_logprob_counts": lambda _: {},
    "_reported": lambda _: [],
    "_limited": lambda _, mixed, __, **___: (mixed, mixed.new_ones(mixed.shape[0])),
}
"""What stands where log-probs, reports and max_kl are drawn when they are taken out: name → a function that does nothing."""


def without_reports(work: Callable[[], Any]) -> None:
    """``work()`` in an engine that cannot report."""
    with patch.multiple("server.engine.sampling.drawing", **STAGES):
        work()


def reports_unasked(setup: Setup) -> Comparison:
    """No request asks for a report, against the same engine with reporting, log-probs and ``max_kl`` taken out."""
    engine = setup.engine()
    requests = setup.workload.build(engine.members["base"].vocab_size, setup.rewards, guided=True)
    tokens = output_tokens(requests)
    ours = Side("report none", lambda: engine.generate(requests), tokens)
    peer = Side("reporting taken out", lambda: without_reports(lambda: engine.generate(requests)), tokens)
    return compare("report unasked", ours, peer, setup.runs, 0.97, setup.tick)


def reports_asked(setup: Setup) -> Comparison:
    """Every request asks for a report of every token, against none that does; no bar, what it costs is to be known."""
    engine = setup.engine()
    requests = setup.workload.build(engine.members["base"].vocab_size, setup.rewards, guided=True)
    reported = [replace(request, report=True) for request in requests]
    tokens = output_tokens(requests)
    ours = Side("report tokens", lambda: engine.generate(reported), tokens)
    peer = Side("report none", lambda: engine.generate(requests), tokens)
    return compare("report asked", ours, peer, setup.runs, 0.0, setup.tick)
