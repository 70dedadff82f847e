"""The command answers for its processes: one that ends badly ends all, and its code is the command's."""

import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from server.group import launch as module
from server.group.launch import LAUNCHER, _Group
from server.group.seat import LISTENING

Start = Callable[[str], tuple[int, float]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Start:
    """``start(program)``: two processes of a Python program in the place of ``genarm``; exit code and seconds it took."""
    monkeypatch.setattr(module, "GRACE", 1.0)

    def run(program: str) -> tuple[int, float]:
        (tmp_path / "program.py").write_text(
            "import os, signal, sys, time\nrank = int(os.environ['RANK'])\n" + textwrap.dedent(program)
        )
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\nexec {sys.executable} -S {tmp_path / 'program.py'}\n")
        python.chmod(0o755)
        monkeypatch.setattr(module.sys, "executable", str(python))
        group = _Group([], 2, None)
        began = time.monotonic()
        try:
            group.start()
            return group.wait(), time.monotonic() - began
        finally:
            group.kill()

    return run


@pytest.mark.parametrize(
    ("program", "code", "said"),
    [
        ("sys.exit(0)", 0, ""),
        ("sys.exit(2)", 2, ""),
        ("sys.exit(0) if rank == 0 else time.sleep(60)", 0, ""),
        ("os.kill(os.getpid(), 9) if rank else time.sleep(60)", 1, "rank 1 (process"),
        ("os.kill(os.getpid(), 9) if rank == 0 else time.sleep(60)", 1, "rank 0 (process"),
        ("sys.exit(2) if rank else time.sleep(60)", 2, ""),
        ("sys.exit(3) if rank else time.sleep(60)", 3, "ended with code 3"),
    ],
)
def test_the_code_is_rank_0s_or_that_of_who_failed(
    start: Start, capsys: pytest.CaptureFixture[str], program: str, code: int, said: str
) -> None:
    told, seconds = start(program)
    assert told == code
    assert seconds < 10
    err = capsys.readouterr().err
    assert (said in err) if said else (err == "")


def test_who_does_not_end_by_itself_is_ended(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 60.0)
    monkeypatch.setattr(module, "LONELY_GRACE", 0.3)
    code, seconds = start("sys.exit(4) if rank == 0 else os.kill(os.getpid(), signal.SIGSTOP)")
    assert (code, seconds < 10) == (4, True)


@pytest.mark.parametrize(("came", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, 1)])
def test_a_signal_before_rank_0_hears_any_ends_it_well(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], came: int, code: int
) -> None:
    """Only the signals that are passed on are meant."""
    real = _Group.wait

    def wait(group: _Group) -> int:
        if came == signal.SIGTERM:
            group.pass_on(came, None)
        else:
            group._processes[0].kill()
        return real(group)

    monkeypatch.setattr(_Group, "wait", wait)
    told, _ = start("time.sleep(60)")
    assert told == code
    assert ("ended by" in capsys.readouterr().err) == (code == 1)


def test_rank_0_is_given_the_socket_that_the_others_come_to(start: Start, tmp_path: Path) -> None:
    code, _ = start(
        f"""
        import socket
        port = int(os.environ["MASTER_PORT"])
        if rank == 0:
            listening = socket.socket(fileno=int(os.environ["{LISTENING}"]))
            assert listening.getsockname() == ("127.0.0.1", port)
            come, _ = listening.accept()
            come.sendall(b"welcome")
            sys.exit(0)
        assert "{LISTENING}" not in os.environ
        with socket.create_connection(("127.0.0.1", port)) as gone:
            open(r"{tmp_path}/heard", "wb").write(gone.recv(99))
        """
    )
    assert code == 0
    assert (tmp_path / "heard").read_bytes() == b"welcome"


def test_each_is_told_its_place(start: Start, tmp_path: Path) -> None:
    code, _ = start(
        f"""
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "{LAUNCHER}")
        with open(r"{tmp_path}/told-" + str(rank), "w") as told:
            told.write(" ".join(os.environ[name] for name in names[:-2]) + " " + os.environ[names[-2]])
        """
    )
    assert code == 0
    first, second = ((tmp_path / f"told-{rank}").read_text().split() for rank in range(2))
    assert first[:4] == ["0", "0", "2", "127.0.0.1"]
    assert second[:4] == ["1", "1", "2", "127.0.0.1"]
    assert first[4] == second[4]
    assert LAUNCHER not in os.environ
