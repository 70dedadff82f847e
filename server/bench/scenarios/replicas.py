"""What does Ray cost?"""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from server.bench.client import stream_all
from server.bench.comparison import Side, compare
from server.bench.latency import Timeline
from server.bench.result import Result, Row
from server.bench.scale.central import central_work
from server.bench.scenarios.http import body
from server.bench.service import ray_server, running_server
from server.bench.setup import Setup

STREAM_TOKENS = 64
"""Length of the streams that are timed one at a time."""


@dataclass(frozen=True, slots=True)
class Overhead:
    """One stream at a time, through Ray and from a plain server in turn; seconds, a sample a run.

    ``ttfts``: to the first token. ``gaps``: a token took behind it, on average over the stream. Ours first, then the peer's.
    """

    name: str
    ttfts: tuple[tuple[float, ...], tuple[float, ...]]
    gaps: tuple[tuple[float, ...], tuple[float, ...]]

    @property
    def reached(self) -> bool:
        """There is no bar."""
        return True

    def row(self) -> Row:
        """Medians, and how much more ours are."""
        (ours, peer), (our_gap, peer_gap) = (
            [1000 * statistics.median(one) for one in sides] for sides in (self.ttfts, self.gaps)
        )
        gaps = [1000 * (one - other) for one, other in zip(*self.gaps, strict=True)]
        return Row(
            self.name,
            f"through Ray: first {ours:.1f} ms, then {our_gap:.2f} ms",
            f"plain: first {peer:.1f} ms, then {peer_gap:.2f} ms",
            f"{ours - peer:+.1f} ms, {our_gap - peer_gap:+.2f} ms a token",
            f"{min(gaps):+.2f} – {max(gaps):+.2f} ms a token",
            "none",
        )

    def record(self) -> Mapping[str, Any]:
        """All samples."""
        return {
            "name": self.name,
            "unit": "seconds",
            "our_ttfts": self.ttfts[0],
            "peer_ttfts": self.ttfts[1],
            "our_gaps": self.gaps[0],
            "peer_gaps": self.gaps[1],
        }


def replicas(setup: Setup) -> Sequence[Result]:
    """A plain server beside one replica on Ray, asked in turn, with the same threads."""
    with ExitStack() as stack:
        plain = stack.enter_context(running_server(setup))
        one = stack.enter_context(ray_server(setup, 1))
        overhead = _overhead(setup, one, plain)
        through = compare(
            "through Ray",
            _side(setup, "one replica", one),
            _side(setup, "plain server", plain),
            setup.runs,
            0.0,
            setup.tick,
        )
        central = central_work(one, bodies_of(setup), setup.runs, setup.tick)
    return [overhead, through, central]


def _side(setup: Setup, label: str, url: str) -> Side:
    """The whole workload, guided."""
    bodies = bodies_of(setup)
    tokens = sum(one["max_tokens"] for one in bodies)
    return Side(label, lambda: stream_all(url, bodies), tokens)


def bodies_of(setup: Setup) -> list[dict[str, Any]]:
    """The whole workload, guided, as requests over HTTP."""
    return [body(request) for request in setup.workload.build(_vocabulary(setup), setup.rewards, guided=True)]


def _overhead(setup: Setup, ours: str, peer: str) -> Overhead:
    request = setup.workload.build(_vocabulary(setup), setup.rewards, guided=True)[0]
    asked = {**body(request), "max_tokens": STREAM_TOKENS}
    timed: tuple[list[Timeline], list[Timeline]] = ([], [])
    for run in range(setup.runs + 1):
        sides = list(zip((ours, peer), timed, strict=True))
        for url, timelines in sides if run % 2 == 0 else reversed(sides):
            (timeline,) = stream_all(url, [asked])
            if run:  # the first does not count
                timelines.append(timeline)
        setup.tick()
    ttfts, gaps = (
        tuple(tuple(getattr(one, name) for one in timelines) for timelines in timed)
        for name in ("ttft", "mean_gap")
    )
    return Overhead("a stream through Ray", (ttfts[0], ttfts[1]), (gaps[0], gaps[1]))


def _vocabulary(setup: Setup) -> int:
    from transformers import AutoConfig

    size: int = AutoConfig.from_pretrained(setup.sources[0].path).vocab_size
    return size
