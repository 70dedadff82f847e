"""Every scenario runs on tiny models and says what it saw; a side that is slowed on purpose is seen to be slow."""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from server.bench.comparison import Comparison
from server.bench.cost import Cost
from server.bench.growth import Growth
from server.bench.peer import generate
from server.bench.scenarios import SCENARIOS, cost, lora, vectors
from server.bench.scenarios import flood as flood_scenario
from server.bench.scenarios import generate as generate_scenario
from server.bench.scenarios.cost import reward_cost
from server.bench.scenarios.flood import SHAPES, Clock, Delay
from server.bench.scenarios.floor import Floor, byte_floor
from server.bench.scenarios.generate import against_generate
from server.bench.scenarios.lora import adapter_cost
from server.bench.scenarios.reports import without_reports
from server.bench.scenarios.serving import Serving, poisson, poisson_serving
from server.bench.scenarios.steering import Lag
from server.bench.scenarios.steps import QUICK, StepTable, engine_steps
from server.bench.scenarios.sweep import weight_sweep
from server.bench.setup import Limits, Setup
from server.engine import Engine, TokenOutput

pytestmark = pytest.mark.slow

MakeSetup = Callable[..., Setup]
COMPARISONS = (
    "zero",
    "generate",
    "static",
    "stream",
    "http",
    "unreported",
    "reported",
    "prefix",
    "transformers",
)


def in_list(found: Any) -> list[Any]:
    return list(found) if isinstance(found, Sequence) else [found]


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_comparison_has_a_rate_of_either_side_for_every_run(
    name: str, make_setup: MakeSetup, ticks: list[int]
) -> None:
    (result,) = in_list(SCENARIOS[name](make_setup(runs=2)))
    assert isinstance(result, Comparison)
    assert len(result.our_rates) == len(result.peer_rates) == 2
    assert min(*result.our_rates, *result.peer_rates) > 0
    assert result.ratio == statistics.median(result.our_rates) / statistics.median(result.peer_rates)
    assert len(ticks) == 3


def test_a_peer_that_is_slowed_is_seen(make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowed(*arguments: Any) -> None:
        time.sleep(3)
        generate(*arguments)

    quick = against_generate(make_setup())
    monkeypatch.setattr(generate_scenario, "generate", slowed)
    slow = against_generate(make_setup())
    assert slow.ratio > 3 * quick.ratio


def test_a_peer_writes_a_sample_and_its_rate_is_of_that(
    make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def counted(_family: Any, requests: Any) -> None:
        written.append(len(requests))

    monkeypatch.setattr(generate_scenario, "generate", counted)
    against_generate(make_setup(requests=3))
    assert written == [1, 1]
    against_generate(make_setup(requests=3, limits=Limits(peer_requests=99)))
    assert written[2:] == [3, 3]


def test_the_bar_is_lower_for_the_demo_only(make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate_scenario, "generate", lambda *_: None)
    assert against_generate(make_setup()).bar == 8.0
    monkeypatch.setattr(Setup, "is_demo", True)
    assert against_generate(make_setup()).bar == 6.0


def test_a_sweep_stands_against_both_ways_of_one_at_a_time(make_setup: MakeSetup) -> None:
    generated, same = weight_sweep(make_setup())
    assert (generated.name, same.name) == ("sweep", "sweep, same engine")
    assert generated.our_rates == same.our_rates
    assert generated.peer_rates != same.peer_rates
    assert generated.bar == same.bar == 8.0


def test_a_study_stands_against_the_same_answers_one_at_a_time(
    make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def counted(_family: Any, requests: Any) -> None:
        written.extend(request.sampling.max_tokens for request in requests)

    monkeypatch.setattr(vectors, "generate", counted)
    generated, same = vectors.weight_vectors(
        make_setup(requests=3, limits=Limits(peer_requests=3, quick=True))
    )
    assert (generated.name, same.name) == ("vectors", "vectors, same engine")
    assert (generated.ours, generated.bar) == ("11 vectors x 3 prompts", 8.0)
    assert generated.our_rates == same.our_rates
    assert len(written) == 6
    assert all(6 <= length <= 10 for length in written)


def slow_steps(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Every step of an engine that has rewards takes so much longer."""
    step = Engine.step

    def slowed(engine: Engine) -> list[TokenOutput]:
        if len(engine.members) > 1:
            time.sleep(seconds)
        return step(engine)

    monkeypatch.setattr(Engine, "step", slowed)


def test_rewards_that_cost_too_much_are_seen(
    make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch, ticks: list[int]
) -> None:
    monkeypatch.setattr(cost, "EACH", 2)
    slow_steps(monkeypatch, 0.3)
    results = reward_cost(make_setup())
    assert [result.name for result in results] == ["cost at 1, by bytes", "cost at 32, by flops"]
    for result in results:
        assert len(result.our_seconds) == len(result.peer_seconds) == 1
        assert min(result.our_seconds) > 0.3 > max(result.peer_seconds)
        assert 1.3 < result.expected < 2  # each reward of "tiny" is about a third of the base
        assert not result.reached
    assert len(ticks) == 4


def test_adapters_are_measured_beside_the_base_alone(
    make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "EACH", 2)
    slow_steps(monkeypatch, 0.3)
    results = adapter_cost(make_setup())
    assert [result.name for result in results] == [f"LoRA rewards at {batch}" for batch in (1, 8, 32)]
    assert [result.bar for result in results] == [2.1, None, None]
    for result in results:
        assert isinstance(result, Cost)
        assert min(result.our_seconds) > 0.3 > max(result.peer_seconds)


def test_the_floor_is_of_the_models_that_step(make_setup: MakeSetup) -> None:
    alone, guided = byte_floor(replace_rewards(make_setup(), 1)), byte_floor(make_setup(rewards=3))
    for floor in (alone, guided):
        assert isinstance(floor, Floor)
        assert 0 < floor.share < 1
        assert floor.bar is None
    assert 1.2 < guided.bytes / alone.bytes < 2


def replace_rewards(setup: Setup, count: int) -> Setup:
    return replace(setup, reward_count=count)


def test_steps_fill_the_grid_and_grow_along_every_axis(make_setup: MakeSetup, ticks: list[int]) -> None:
    table, *growth = engine_steps(make_setup())
    assert isinstance(table, StepTable)
    kinds = {(cell.kind, cell.rewards) for cell in table.cells}
    assert kinds == {("full", 0), ("full", 1), ("full", 3), ("lora", 1), ("lora", 3)}
    sizes = len(QUICK.batches) * len(QUICK.contexts)
    assert len(table.cells) == len(ticks) == 5 * sizes
    assert table.left_out == 0
    assert all(cell.seconds > 0 for cell in table.cells)
    assert [one.axis for one in growth if isinstance(one, Growth)] == ["batch", "context", "rewards"]


def test_what_does_not_fit_into_memory_is_left_out_and_counted(make_setup: MakeSetup) -> None:
    # The base keeps 2 x 4 layers x 128 values of 4 bytes for a token: only one response of 128 tokens fits.
    limits = Limits(quick=True, cache_bytes=128 * 2 * 4 * 128 * 4)
    table, *growth = engine_steps(make_setup(limits=limits))
    assert isinstance(table, StepTable)
    assert [(cell.rewards, cell.batch, cell.context) for cell in table.cells] == [(0, 1, 128)]
    assert table.left_out == 19
    assert growth == []


def test_serving_sees_every_token_of_every_request(make_setup: MakeSetup) -> None:
    setup = make_setup(requests=3, limits=Limits(rates=(20.0, 40.0), ttft=60.0, itl=60.0))
    results = poisson_serving(setup)
    assert [result.rate for result in results] == [20.0, 40.0]
    for result in results:
        assert isinstance(result, Serving)
        record = result.record()
        lengths = [len(timeline.tokens) for timeline in result.timelines]
        requests = setup.workload.build(2048, [], guided=False)
        assert lengths == [request.sampling.max_tokens for request in requests]
        assert record["itl_samples"] == sum(lengths) - len(lengths)
        assert 0 < record["ttft"]["p50"] <= record["ttft"]["p95"] <= record["ttft"]["p99"]
        assert record["goodput"] == 1.0
        assert record["capacity_requests_per_second"] > 0


def test_rates_are_shares_of_the_capacity_where_none_are_given(
    make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.bench.scenarios.serving._capacity", lambda *_: 30.0)
    results = poisson_serving(make_setup())
    assert [result.rate for result in results] == [15.0, 24.0, 30.0]
    assert {result.capacity for result in results} == {30.0}


def test_arrivals_are_a_poisson_process_and_the_same_every_time() -> None:
    times = poisson(4.0, 4000, "seed")
    assert times == poisson(4.0, 4000, "seed") != poisson(4.0, 4000, "other")
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert times[0] == 0
    assert statistics.mean(waits) == pytest.approx(0.25, rel=0.1)
    assert statistics.stdev(waits) == pytest.approx(0.25, rel=0.1)  # of an exponential, as large as the mean


def test_a_lag_is_as_long_as_the_longest() -> None:
    assert Lag("x", 2, (0, 1, 2), 2).reached
    late = Lag("x", 2, (0, 1, 3), 2)
    assert not late.reached
    assert late.row().value == "3 steps"


def test_every_stream_is_steered_once(make_setup: MakeSetup) -> None:
    (lag,) = in_list(SCENARIOS["steering"](make_setup(requests=3)))
    assert isinstance(lag, Lag)
    assert len(lag.lags) == 3
    assert all(0 <= one < 20 for one in lag.lags)


def test_a_delay_is_what_the_95th_percentile_grows_by() -> None:
    quiet = tuple(range(1, 101))
    assert Delay("x", 100, quiet, tuple(steps + 10 for steps in quiet), 10).reached
    late = Delay("x", 100, quiet, (*quiet[:94], *[106] * 6), 10)
    assert late.growth == 106 - 95
    assert not late.reached
    assert late.row().value == "+11 steps"


def test_a_clock_counts_on_while_one_of_its_streams_ends() -> None:
    async def steps() -> list[int]:
        clock = Clock()
        clock.stream().extend([1.0, 2.0, 3.0])
        clock.stream().extend([2.5, 3.5, 4.5, 5.5])
        return [clock.steps(0.5, 2.2), clock.steps(2.2, 6.0), clock.steps(2.0, 3.0), clock.steps(6.0, 7.0)]

    assert asyncio.run(steps()) == [2, 4, 1, 0]


def test_one_key_is_measured_with_and_without_the_flood_of_another(
    make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flood_scenario, "FLOOD", 12)
    monkeypatch.setattr(flood_scenario, "SAMPLES", 5)
    delays = in_list(SCENARIOS["flood"](make_setup(requests=4)))
    assert [delay.name.removeprefix("flood, ") for delay in delays] == [shape.name for shape in SHAPES]
    for delay, shape in zip(delays, SHAPES, strict=True):
        assert isinstance(delay, Delay)
        assert len(delay.quiet) == len(delay.flooded) == 5
        assert delay.flood == 12
        assert min(*delay.seconds) > 0
        statuses = set(delay.answers)
        assert statuses <= (
            {400, 429} if shape.name == "large bodies" else {200, 400, 429} if shape.refused else {200, 429}
        )
        assert delay.reached


def test_what_a_report_is_compared_with_cannot_report(make_setup: MakeSetup) -> None:
    setup = make_setup(rewards=1)
    engine = setup.engine()
    request, _ = setup.workload.build(50, setup.rewards, guided=True)
    engine.add(replace(request, report=True))
    outputs: list[TokenOutput] = []
    without_reports(lambda: outputs.extend(engine.step()))
    outputs += engine.step()
    assert [output.report is None for output in outputs] == [True, False]
