"""The command itself, as users start it: ``genarm serve`` in a process of its own."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
GENARM = ("server.cli",)
"""The module that is the command; what a test puts in its place takes the same arguments behind its own."""


class Process:
    """A ``genarm serve``; ``url`` is where. What it prints is read as it comes: a full pipe would stop it."""

    def __init__(self, config: Path, *flags: str, module: Sequence[str] = GENARM) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *module, "serve", "--config", str(config), "--port", "0", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._first = self._lines.get(timeout=60)
        urls = [word.rstrip(",") for word in self._first.split() if word.startswith("http")]
        assert urls, self.rest()
        self.url = urls[0]

    def wait_until_ready(self) -> "Process":
        deadline = time.monotonic() + 90
        while httpx.get(f"{self.url}/ready", timeout=60).status_code != 200:  # importing may hold it up
            assert self.process.poll() is None, self.rest()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return self

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def rest(self) -> str:
        """Waits for the end; everything that was printed."""
        self.process.wait(timeout=60)
        self._reader.join(timeout=60)
        return self._first + "".join(self._lines.get() for _ in range(self._lines.qsize()))

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.rest()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as printed:
            for line in printed:
                self._lines.put(line)
