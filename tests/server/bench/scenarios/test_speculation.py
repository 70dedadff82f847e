"""Speculation is measured at every width, and says how many guesses stood."""

import re
from collections.abc import Callable

from server.bench.scenarios.speculation import speculation_pays
from server.bench.setup import Setup


def test_each_width_is_measured_and_guesses_are_counted(make_setup: Callable[..., Setup]) -> None:
    results = speculation_pays(make_setup(requests=3))
    assert [result.name for result in results] == ["speculation, 1 at once", "speculation, 3 at once"]
    for result in results:
        counted = re.match(r"(\d+) of (\d+) guesses stood; auto$", result.ours)
        assert counted
        assert int(counted[1]) <= int(counted[2])
        assert int(counted[2]) > 0
        assert len(result.our_rates) == len(result.peer_rates) == 1
