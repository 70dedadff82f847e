"""What a container asks of its first process: to hear a signal from the beginning on, and to be gone soon after its last word."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CAUGHT = 1 << (signal.SIGTERM - 1)


def hears_sigterm(process: subprocess.Popen[str]) -> bool:
    """Whether it has a handler: without one the kernel gives process 1 no signal."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask, 16) & CAUGHT)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_signal_during_the_imports_ends_it(root: Path) -> None:
    """As process 1 does, it begins with SIGTERM ignored; it listens long after it has a handler."""
    command = [sys.executable, "-m", "server.cli", "serve", "--port", "0"]
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        process = subprocess.Popen(
            command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    try:
        deadline = time.monotonic() + 60
        while not hears_sigterm(process):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, told) == (0, "")
