"""A real engine whose device fails under requests: everybody is told once; one that runs out of memory tells nobody."""

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from server.runtime import load_runtime
from tests.faults.fault import POINTS, SECRET, Fault

ASKED: dict[str, Any] = {"max_tokens": 24, "ignore_eos": True, "guidance": {"report": "summary"}}


@pytest.mark.parametrize("point", POINTS)
def test_a_fault_is_told_once_to_everybody_in_flight(
    deployment: Any,
    serve: Callable[..., Any],
    until: Any,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    fault, dead = Fault(point, 1), list[BaseException]()
    fault.install(monkeypatch.setattr)
    with (
        serve(deployment, load_runtime, on_dead=dead.append) as server,
        server.client() as client,
        server.open(client, max_tokens=200, ignore_eos=True) as events,
        ThreadPoolExecutor(3) as pool,
    ):
        next(events)
        whole = [pool.submit(server.chat, max_tokens=200, ignore_eos=True, seed=seed) for seed in range(2)]
        until(lambda: server.serving.dispatcher.stats.running == 3)
        fault.arm()
        late = pool.submit(server.chat, max_tokens=200) if point == "prefill" else None
        told = list(events)
        assert [list(event) == ["error"] for event in told].count(True) == 1
        assert list(told[-1]) == ["error"]
        refused = [future.result() for future in (*whole, *([late] if late else ()))]
        assert [one.status_code for one in refused] == [503] * len(refused)
        assert {one.json()["error"]["code"] for one in refused} == {"engine_dead"}
        until(lambda: dead)
        assert [SECRET in str(one) for one in dead] == [True]
        assert client.get("/health").status_code == 503
        later = server.chat()
        assert (later.status_code, bool(later.headers["retry-after"])) == (503, True)
        for text in (str(told), later.text, *(one.text for one in refused)):
            assert SECRET not in text
        assert server.serving.dispatcher.admitted == 0


@pytest.mark.parametrize("point", ["decode", "sample"])
def test_running_out_of_memory_changes_no_answer_and_is_told_to_nobody(
    real: Any,
    deployment: Any,
    serve: Callable[..., Any],
    until: Any,
    monkeypatch: pytest.MonkeyPatch,
    alike: Callable[[Any, Any], bool],
    point: str,
) -> None:
    alone = [real.chat(**ASKED, seed=seed).json() for seed in range(4)]
    fault = Fault(point, 10, memory=True)
    fault.install(monkeypatch.setattr)
    with serve(deployment, load_runtime) as server, ThreadPoolExecutor(4) as pool:
        fault.arm()
        pending = [pool.submit(server.chat, **ASKED, seed=seed) for seed in range(4)]
        told = [future.result().json() for future in pending]
        assert fault.raised > 1
        with server.client() as client:
            told_of = re.findall(
                r"^genarm_memory_faults_total\{.*\} (.*)$", client.get("/metrics").text, re.M
            )
        assert [float(one) for one in told_of] == [fault.raised]
        for one, other in zip(told, alone, strict=True):
            assert json.dumps(one["choices"]) == json.dumps(other["choices"])
            assert alike(one["guidance"], other["guidance"])
        until(lambda: all(not share for share in server.serving.dispatcher.stats.cache_usage.values()))
