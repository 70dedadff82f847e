"""Starts the processes of a group on this machine and answers for them: one ends badly, all end, and so does the command."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from server.group.seat import LISTENING

if TYPE_CHECKING:
    from types import FrameType

GRACE = 8.0
"""Seconds that the others have to end by themselves once one has; rank 0 tells its clients."""

LONELY_GRACE = 3.0
"""The same once rank 0 has ended, which the others hear at once unless they hang."""

LAUNCHER = "GENARM_LAUNCHER"
"""Names, in a process's environment, the pipe that closes when what started it is gone."""

LOOK = 0.1
"""Seconds between two looks at the processes."""


def launch(arguments: Sequence[str], size: int, threads: int | None) -> int:
    """Run ``genarm`` with these arguments in ``size`` processes on this machine; the exit code of the command.

    SIGTERM and SIGINT go to rank 0, which drains, and dismisses the others. ``threads``: of each process's forward; None lets
    them share the cores.
    """
    group = _Group(arguments, size, threads)
    signal.signal(signal.SIGTERM, group.pass_on)
    signal.signal(signal.SIGINT, group.pass_on)
    try:
        group.start()
        return group.wait()
    finally:
        group.kill()


def watch_launcher() -> None:
    """End this process when the one that started it is gone; nothing where it was started otherwise."""
    pipe = os.environ.pop(LAUNCHER, None)
    if pipe is not None:
        threading.Thread(target=_wait_for_end, args=(int(pipe),), name="launcher", daemon=True).start()


def _wait_for_end(pipe: int) -> None:
    while os.read(pipe, 1):
        pass  # nothing is ever said
    print("genarm: the process that started this one is gone; it ends", file=sys.stderr, flush=True)
    os._exit(1)


class _Group:
    def __init__(self, arguments: Sequence[str], size: int, threads: int | None) -> None:
        self._arguments = list(arguments)
        self._size = size
        self._threads = threads
        self._processes: list[subprocess.Popen[bytes]] = []
        self._signals: list[int] = []  # that came

    def start(self) -> None:
        """Start the processes."""
        reading, self._alive = os.pipe()
        try:
            # Bound here, so that nobody else can take the port in between; and on loopback, which torch's own store is not.
            with socket.create_server(("127.0.0.1", 0), backlog=2 * self._size) as store:
                environment = {
                    **os.environ,
                    **self._environment(store.getsockname()[1]),
                    LAUNCHER: str(reading),
                }
                for rank in range(self._size):
                    own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                    if rank == 0:
                        own[LISTENING] = str(store.fileno())
                    process = subprocess.Popen(
                        [sys.executable, "-m", "server.cli", *self._arguments],
                        env=own,
                        stdin=subprocess.DEVNULL,
                        pass_fds=(reading, store.fileno()) if rank == 0 else (reading,),
                        start_new_session=True,  # a terminal's Ctrl-C comes to this process, which passes it on once
                    )
                    self._processes.append(process)
        finally:
            os.close(reading)
        for number in self._signals:
            self._processes[0].send_signal(number)

    def pass_on(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """A signal came."""
        self._signals.append(number)
        if self._processes:
            self._processes[0].send_signal(number)

    def wait(self) -> int:
        """Wait for the end of all; the exit code."""
        while all(process.poll() is None for process in self._processes):
            time.sleep(LOOK)
        lead = self._processes[0]
        if lead.poll() is not None and -lead.returncode in self._signals:
            return 0  # it had not come to where it hears a signal
        if lead.returncode != 0:
            self._report()
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline and any(one.poll() is None for one in self._processes):
            if lead.poll() is not None:
                deadline = min(deadline, time.monotonic() + LONELY_GRACE)
            time.sleep(LOOK)
        if lead.poll() == 0:
            return 0  # the others were dismissed, or had not even met it
        return next((one.returncode for one in self._processes if (one.returncode or 0) > 0), 1)

    def kill(self) -> None:
        """End those that still run."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _report(self) -> None:
        """Say who ended first; what the user did wrong (code 2) has been said."""
        ended = (rank for rank, one in enumerate(self._processes) if one.returncode not in (None, 0, 2))
        rank = next(ended, None)
        if rank is None:
            return
        process = self._processes[rank]
        code = process.returncode
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        print(
            f"genarm: rank {rank} (process {process.pid}) {how}; the group ends", file=sys.stderr, flush=True
        )

    def _environment(self, port: int) -> dict[str, str]:
        """What torchrun would set."""
        common = {
            "WORLD_SIZE": str(self._size),
            "LOCAL_WORLD_SIZE": str(self._size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        if "GLOO_SOCKET_IFNAME" not in os.environ and _has_lo():
            common["GLOO_SOCKET_IFNAME"] = "lo"  # nobody else has to reach them
        if self._threads is None and "OMP_NUM_THREADS" not in os.environ:
            common["OMP_NUM_THREADS"] = str(max(1, _cores() // self._size))
        return common


def _has_lo() -> bool:
    """Whether there is an interface of this name, and gloo can find it: a service may be forbidden to look at interfaces."""
    try:
        return "lo" in (name for _, name in socket.if_nameindex())
    except OSError:
        return False


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
