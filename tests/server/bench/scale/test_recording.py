"""What is measured of an engine is what the model of it says it did."""

from dataclasses import replace

import pytest

from server.bench.scale.recording import OutOfStepError, Phase, Recording, record
from server.engine import Engine
from server.simulation.limits import Limits
from server.simulation.load import MemberLoad
from server.simulation.traffic import Traffic, TrafficSettings, draw_traffic


@pytest.fixture
def traffic() -> Traffic:
    settings = TrafficSettings(
        turns="1-3", systems=2, system_tokens=140, message="3-20", output="2-12", longest=300, guided=0.6
    )
    return draw_traffic(settings, 1.0, 12, seed=3)


def test_every_step_is_counted_once_and_took_time(engine: Engine, limits: Limits, traffic: Traffic) -> None:
    ticks: list[int] = []
    phases = [Phase(1, 12), Phase(3, 20), Phase(6, 20)]
    recording = record(engine, limits, traffic, phases, lambda: ticks.append(1))
    samples = recording.samples
    assert len(recording.cpu) == len(samples)
    assert 0 <= recording.off_cpu < 1
    assert len(samples) == 52
    assert any(own.moved for sample in samples for own in sample.load)
    assert len(ticks) == 3
    assert all(sample.seconds > 0 for sample in samples)
    draws = [sample.load[0].draws for sample in samples]
    assert max(draws[:12]) == 1
    assert max(draws) == limits.max_sequences
    assert any(sample.load[0].read for sample in samples)
    assert any(own.tokens for sample in samples for own in sample.load[1:])
    assert not engine.has_work
    engine.check_integrity()


def test_what_something_else_took_is_no_steps_time() -> None:
    recording = Recording()
    load = [MemberLoad(1, 1)]
    recording.add(load, 1.0, 0.9, on_cpu=True)
    recording.add(load, 1.0, 0.1, on_cpu=True)
    recording.add(load, 1.0, 0.1, on_cpu=False)  # waits for its device
    assert [sample.seconds for sample in recording.samples] == [1.0, 0.1, 1.0]
    assert recording.off_cpu == pytest.approx(1 - 1.1 / 3)


def test_an_engine_with_other_limits_is_found_out(engine: Engine, limits: Limits, traffic: Traffic) -> None:
    with pytest.raises(OutOfStepError, match=r"the model (planned|has)"):
        record(engine, replace(limits, prefix_share=0.0), traffic, [Phase(3, 60)])
