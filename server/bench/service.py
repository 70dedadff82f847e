"""A server in a process of its own, as its users have it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from server.bench.setup import Setup


@contextmanager
def running_server(setup: Setup) -> Iterator[str]:
    """The URL of a server of the setup's models, with room for all its requests; it ends with the block.

    Raises:
        RuntimeError: it did not become ready.
    """
    base, *rewards = setup.sources
    options = ["--base", base.path, "--model-name", "bench", "--port", "0", "--threads", str(setup.threads)]
    options += [f"--reward={reward.name}={reward.path}" for reward in rewards]
    options += ["--max-sequences", str(setup.workload.requests)]
    process = subprocess.Popen(
        [sys.executable, "-m", "server.cli", "serve", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield _url(process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)  # the second one ends what still runs
        process.wait(timeout=30)


def _url(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if "ready on" in line:
            return line.split("ready on ")[1].split()[0]
    raise RuntimeError(f"the server ended with exit code {process.wait()} before it was ready")
