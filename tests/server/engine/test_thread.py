"""One thread owns the engine; its death is said once to everyone in flight."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from server.engine import Engine, EngineDead, EngineThread, SamplingParams, SequenceRequest, TokenOutput


class Listener:
    """Collects what the engine says and lets a test wait for it."""

    def __init__(self) -> None:
        self.outputs: dict[str, list[TokenOutput]] = defaultdict(list)
        self.faults: list[BaseException] = []
        self._changed = threading.Condition()

    def on_outputs(self, outputs: list[TokenOutput]) -> None:
        with self._changed:
            for output in outputs:
                self.outputs[output.id].append(output)
            self._changed.notify_all()

    def on_death(self, fault: BaseException) -> None:
        with self._changed:
            self.faults.append(fault)
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, timeout=60)

    def ended(self, sequence_id: str) -> bool:
        outputs = self.outputs[sequence_id]
        return bool(outputs) and outputs[-1].finish_reason is not None


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    return make_engine()


@pytest.fixture
def thread(engine: Engine, listener: Listener) -> Iterator[EngineThread]:
    thread = EngineThread(engine, listener.on_outputs, listener.on_death)
    thread.start()
    yield thread
    assert thread.stop(timeout=60)


def request(name: str, max_tokens: int = 5) -> SequenceRequest:
    prompts = {"base": [5, 6, 7], "helpful": [8, 9], "harmless": [1]}
    return SequenceRequest(name, prompts, {"base": 1.0, "helpful": 0.5}, SamplingParams(max_tokens))


def test_it_gives_what_the_engine_gives(
    thread: EngineThread, listener: Listener, make_engine: Callable[..., Engine]
) -> None:
    thread.add(request("a")).result(timeout=60)
    listener.wait(lambda: listener.ended("a"))
    assert [output.token for output in listener.outputs["a"]] == make_engine().generate([request("a")])["a"]


def test_a_refused_command_tells_its_giver_and_stops_nothing(
    thread: EngineThread, listener: Listener
) -> None:
    with pytest.raises(ValueError, match="reads at most"):
        thread.add(request("long", 10_000)).result(timeout=60)
    assert thread.change(["nobody"], {"base": 1.0}).result(timeout=60) == {}
    thread.abort("nobody").result(timeout=60)
    thread.add(request("b")).result(timeout=60)
    listener.wait(lambda: listener.ended("b"))
    assert thread.alive


def test_weights_change_and_aborts_reach_a_running_response(thread: EngineThread, listener: Listener) -> None:
    thread.add(request("c", 200)).result(timeout=60)
    at = thread.change(["c"], {"base": 1.0, "harmless": 1.0}).result(timeout=60)["c"]
    assert 0 <= at < 200
    thread.abort("c").result(timeout=60)
    listener.wait(lambda: listener.ended("c"))
    assert listener.outputs["c"][-1].finish_reason == "abort"
    assert thread.stats.cache_usage == {"base": 0.0, "helpful": 0.0, "harmless": 0.0}


def test_it_tells_whether_any_of_several_has_left_the_queue(
    make_engine: Callable[..., Engine], listener: Listener
) -> None:
    engine = make_engine(max_sequences=1)
    thread = EngineThread(engine, listener.on_outputs, listener.on_death)
    engine.add(request("x/0"), request("x/1"), request("y/0"))
    engine.step()
    thread._open = True
    answers = [thread.has_begun(prefix) for prefix in ("x/", "x/1", "y/", "z/")]
    thread._obey()
    assert [answer.result(timeout=60) for answer in answers] == [True, False, False, False]


def test_a_command_that_its_giver_gave_up_is_dropped_and_stops_nothing(
    engine: Engine, listener: Listener
) -> None:
    thread = EngineThread(engine, listener.on_outputs, listener.on_death)
    engine.add(request("a"))
    # The thread waits inside its first step until a command has been given and taken back.
    step, given = engine.step, threading.Event()

    def waiting() -> list[TokenOutput]:
        assert given.wait(60)
        return step()

    engine.step = waiting  # type: ignore[method-assign]
    thread.start()
    assert thread.add(request("b")).cancel()
    given.set()
    listener.wait(lambda: listener.ended("a"))
    assert thread.stop(timeout=60)
    assert "b" not in listener.outputs
    assert not listener.faults


def test_who_gives_a_command_that_the_engine_dies_of_is_told(
    thread: EngineThread, engine: Engine, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(_: object) -> None:
        raise RuntimeError("the device fell off the bus")

    monkeypatch.setattr(engine, "remove_members", dies)
    with pytest.raises(RuntimeError, match="fell off"):
        thread.remove_members(["helpful"]).result(timeout=60)
    listener.wait(lambda: listener.faults)
    assert not thread.alive


@pytest.mark.parametrize("call", [1, 4])
def test_a_step_that_raises_fails_everyone_in_flight_once(
    engine: Engine, listener: Listener, call: int
) -> None:
    calls = 0
    step = engine.step

    def failing() -> list[TokenOutput]:
        nonlocal calls
        calls += 1
        if calls == call:
            raise RuntimeError("the device fell off the bus")
        return step()

    engine.step = failing  # type: ignore[method-assign]
    thread = EngineThread(engine, listener.on_outputs, listener.on_death)
    for name in ("a", "b"):
        engine.add(request(name, 100))
    thread.start()
    listener.wait(lambda: bool(listener.faults))
    assert [str(fault) for fault in listener.faults] == ["the device fell off the bus"]
    for name in ("a", "b"):
        assert [output.finish_reason for output in listener.outputs[name]] == [None] * (call - 1) + ["error"]
        assert "bus" not in (listener.outputs[name][-1].error or "")
    assert not thread.alive
    with pytest.raises(EngineDead):
        thread.add(request("c")).result(timeout=60)
    assert thread.stop(timeout=60)


def test_what_has_to_end_is_what_it_does_and_not_its_waiting(engine: Engine, listener: Listener) -> None:
    within: list[int] = []
    steps = 0
    step = engine.step

    @contextmanager
    def over() -> Iterator[None]:
        within.append(1)
        yield
        within.append(-1)

    def watched() -> list[TokenOutput]:
        nonlocal steps
        steps += 1
        assert sum(within) == 1
        return step()

    engine.step = watched  # type: ignore[method-assign]
    thread = EngineThread(engine, listener.on_outputs, listener.on_death, over)
    thread.start()
    thread.add(request("a")).result(timeout=60)
    listener.wait(lambda: listener.ended("a"))
    thread.release(["a"]).result(timeout=60)
    assert thread.stop(timeout=60)
    assert not listener.faults
    assert sum(within) == 0
    assert within.count(1) == steps + 2, "each step and each command"


def test_stopping_ends_what_is_in_flight_with_an_error(engine: Engine, listener: Listener) -> None:
    thread = EngineThread(engine, listener.on_outputs, listener.on_death)
    thread.start()
    thread.add(request("a", 200)).result(timeout=60)
    assert thread.stop(timeout=60)
    assert listener.outputs["a"][-1].finish_reason == "error"
    assert not listener.faults
    with pytest.raises(EngineDead):
        thread.abort("a").result(timeout=60)
