"""A server of two processes: it answers, drains, and ends as a whole, whichever of its processes is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.streams import BODY, Stream
from tests.process import Process
from tests.server.group.conftest import ROOT, Group, gone, run

Start = Callable[..., Group]

GREEDY = {**BODY, "temperature": 0, "max_tokens": 24, "preferences": {"helpful": 0.8, "harmless": 0.6}}


def answer(url: str) -> str:
    told = httpx.post(f"{url}/v1/chat/completions", json=GREEDY, timeout=60)
    assert told.status_code == 200, told.text
    text: str = told.json()["choices"][0]["message"]["content"]
    return text


@pytest.mark.slow
def test_it_answers_and_a_sigterm_lets_what_runs_end_well(start: Start) -> None:
    group = start().wait_until_ready()
    pids = list(group.pids().values())
    assert len(pids) == 2
    assert answer(group.url) == answer(group.url) != ""
    stream = Stream(group.url, "any", max_tokens=120).began()
    group.signal(signal.SIGTERM)
    events = stream.whole()
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
    printed = group.rest()
    assert group.process.returncode == 0, printed
    assert gone(pids)
    assert "Traceback" not in printed
    assert "is gone" not in printed


@pytest.mark.slow
def test_it_says_what_one_process_says(start: Start, alone: Path) -> None:
    assert answer(start().wait_until_ready().url) == answer(start(declared=alone).wait_until_ready().url)


@pytest.mark.slow
def test_so_do_four(start: Start, make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    base = make_checkpoint("qwen2", "four-base", seed=1, num_key_value_heads=4, tie_word_embeddings=True)
    rewards = [make_checkpoint("llama", f"four-{seed}", seed=seed) for seed in (2, 3, 4)]
    told: list[str] = []
    for processes in (4, 1):
        declared = [
            {"name": name, "model": str(model), "rank": rank if processes > 1 else 0}
            for name, model, rank in zip(("helpful", "harmless", "kind"), rewards, ("all", 3, 1), strict=True)
        ]
        config = tmp_path / f"{processes}.yaml"
        split = {"model": str(base), "tensor_parallel": processes}
        config.write_text(json.dumps({"model": "tiny", "threads": 1, "base": split, "rewards": declared}))
        group = start(declared=config).wait_until_ready()
        told.append(answer(group.url))
        group.signal(signal.SIGTERM)
        assert group.rest()
        assert group.process.returncode == 0
    assert told[0] == told[1]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_when_a_rank_is_killed_while_nothing_runs_all_end_within_seconds(start: Start, rank: int) -> None:
    group = start().wait_until_ready()
    pids = group.pids()
    time.sleep(1)  # the engine waits for requests, rank 1 for rank 0
    began = time.monotonic()
    group.kill_rank(rank)
    printed = group.rest()
    assert time.monotonic() - began < 10
    assert group.process.returncode == 1
    assert gone(list(pids.values()), began + 10 - time.monotonic())
    assert f"genarm: rank {rank} (process {pids[rank]}) ended by SIGKILL; the group ends\n" in printed


@pytest.mark.slow
def test_when_a_rank_is_killed_in_the_middle_of_a_step_its_streams_end_with_one_error(start: Start) -> None:
    group = start().wait_until_ready()
    streams = [Stream(group.url, "any", max_tokens=220, seed=seed).began() for seed in range(4)]
    pids = list(group.pids().values())
    began = time.monotonic()
    group.kill_rank(1)
    for stream in streams:
        events = stream.whole()
        assert "[DONE]" not in events
        errors = [json.loads(event)["error"] for event in events if "error" in json.loads(event)]
        assert [error["code"] for error in errors] == ["engine_dead"]
    printed = group.rest()
    assert time.monotonic() - began < 10
    assert group.process.returncode == 1
    assert gone(pids)
    assert "genarm: rank 1 is gone; the group ends\n" in printed


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_stopped_ends_the_group_too(start: Start, rank: int) -> None:
    group = start().wait_until_ready()
    stream = Stream(group.url, "any", max_tokens=220, seed=1).began()
    pids = group.pids()
    began = time.monotonic()
    os.kill(pids[rank], signal.SIGSTOP)
    if rank == 1:
        events = stream.whole()
        assert time.monotonic() - began < 10
        assert json.loads(events[-1])["error"]["code"] == "engine_dead"
    printed = group.rest()
    assert time.monotonic() - began < 20
    assert f"rank {rank}: nothing has been heard of it for 8 s; the group ends\n" in printed
    assert group.process.returncode == 1
    assert gone(list(pids.values()))


@pytest.mark.slow
def test_a_rank_that_is_stopped_for_a_moment_is_waited_for(start: Start) -> None:
    group = start().wait_until_ready()
    expected = answer(group.url)
    stream = Stream(group.url, "any", max_tokens=60).began()
    pid = group.pid_of(1)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(3)
    os.kill(pid, signal.SIGCONT)
    assert stream.whole()[-1] == "[DONE]"
    assert answer(group.url) == expected


@pytest.mark.slow
def test_a_rank_that_hangs_in_a_forward_ends_the_group(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = tmp_path / "hasty.yaml"
    declared.write_text(
        config.read_text().replace("tensor_parallel: 2", "tensor_parallel: 2, hang_seconds: 2.0")
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name, value in (("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", str(port))):
        monkeypatch.setenv(name, value)
    module = "tests.server.engine.sharding.short"
    monkeypatch.setenv("RANK", "1")
    follower = subprocess.Popen(
        [sys.executable, "-m", module, "serve", "--config", str(declared)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    lead = None
    try:
        monkeypatch.setenv("RANK", "0")
        lead = Process(declared, module=(module,)).wait_until_ready()
        assert answer(lead.url) != ""
        stream = Stream(lead.url, "any", max_tokens=220).began()
        began = time.monotonic()
        follower.send_signal(signal.SIGHUP)
        events = stream.whole()
        assert time.monotonic() - began < 10
        assert json.loads(events[-1])["error"]["code"] == "engine_dead"
        printed = lead.rest()
        assert "genarm: a process hangs: no end of a step in 2 s; the group ends\n" in printed
        assert lead.process.returncode == 1
        assert follower.wait(10) == 0, "it is dismissed, wherever it hangs"
    finally:
        follower.kill()
        follower.communicate()
        if lead is not None:
            lead.kill()


@pytest.mark.slow
def test_processes_that_mean_different_things_do_not_begin(
    config: Path, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    base = make_checkpoint("llama", "other-base", seed=9, layers=8)
    lines = config.read_text().splitlines()
    told: list[str] = []
    for changed in (
        [
            line.replace(line.split("model: ")[1].split(",")[0], str(base))
            if line.startswith("base")
            else line
            for line in lines
        ],
        [*lines, "engine: {prefill_chunk: 64}"],
    ):
        other.write_text("\n".join(changed))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "server.cli", "serve", "--config", str(own), "--port", "0"],
                env={**os.environ, **place, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, own in enumerate((config, other))
        ]
        try:
            told.append(processes[0].communicate(timeout=60)[1])
            assert processes[0].returncode == 2, told[-1]
            assert processes[1].wait(15) in (0, 1)
        finally:
            for process in processes:
                process.kill()
                process.communicate()
    assert "the files of base: not the same in all 2 processes\n" in told[0]
    assert "the deployment: not the same in all 2 processes\n" in told[1]
    assert all("Traceback" not in one for one in told)


@pytest.mark.slow
def test_when_the_command_is_killed_its_processes_end(start: Start) -> None:
    group = start().wait_until_ready()
    pids = list(group.pids().values())
    group.process.kill()
    assert gone(pids)
    assert "the process that started this one is gone" in group.rest()


@pytest.mark.slow
def test_a_signal_while_models_load_ends_all(start: Start) -> None:
    group = start()
    pids = list(group.pids().values())
    group.signal(signal.SIGTERM)
    printed = group.rest()
    assert group.process.returncode == 0, printed
    assert gone(pids)
    assert "Traceback" not in printed


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_when_a_rank_is_killed_while_models_load_all_end(start: Start, rank: int) -> None:
    group = start()
    pids = group.pids()
    began = time.monotonic()
    group.kill_rank(rank)
    printed = group.rest()
    assert time.monotonic() - began < 15, "who had not met the other is given 8 s"
    assert group.process.returncode == 1
    assert gone(list(pids.values()))
    assert f"genarm: rank {rank} (process {pids[rank]}) ended by SIGKILL; the group ends\n" in printed


@pytest.mark.slow
def test_a_second_signal_ends_at_once(start: Start) -> None:
    group = start().wait_until_ready()
    pids = list(group.pids().values())
    Stream(group.url, "any", max_tokens=220).began()
    group.signal(signal.SIGTERM)
    time.sleep(0.3)
    began = time.monotonic()
    group.signal(signal.SIGTERM)
    group.rest()
    assert time.monotonic() - began < 5
    assert group.process.returncode != 0
    assert gone(pids)


@pytest.mark.slow
def test_torchrun_starts_the_same(config: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "server.cli", "serve", "--config", str(config), "--port", "0"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    try:
        ready = next(line for line in process.stdout if "genarm: ready on" in line)
        url = next(word for word in ready.split() if word.startswith("http"))
        assert answer(url) != ""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        lead = next(
            int(child)
            for child in children
            if Path(f"/proc/{child}/environ").exists()
            and b"RANK=0" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        )
        os.kill(lead, signal.SIGTERM)
        printed = process.stdout.read()
        assert process.wait(30) == 0, printed
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.slow
def test_a_model_that_cannot_be_split_is_one_line_and_code_2(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    declared = tmp_path / "odd.yaml"
    declared.write_text(
        f"model: odd\nbase: {{model: {make_checkpoint('llama', 'odd', seed=1)}, tensor_parallel: 3}}\n"
    )
    done = run("serve", "--config", str(declared), "--port", "0")
    assert done.returncode == 2, done.stderr
    lines: list[Any] = [line for line in done.stderr.splitlines() if "cannot be divided" in line]
    assert len(lines) == 1
    assert "4 attention heads cannot be divided among 3 processes" in lines[0]
    assert "Traceback" not in done.stderr
