"""A server in a process of its own, as its users have it."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from server.bench.setup import Setup


@contextmanager
def running_server(setup: Setup) -> Iterator[str]:
    """The URL of a server of the setup's models, with room for all its requests; it ends with the block.

    Raises:
        RuntimeError: it did not become ready.
    """
    with tempfile.TemporaryDirectory(prefix="genarm-bench-") as folder:
        config = Path(folder, "deployment.yaml")
        config.write_text(json.dumps(_deployment(setup)))  # JSON is YAML
        command = [sys.executable, "-m", "server.cli", "serve", "--config", str(config), "--port", "0"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            try:
                yield _url(process)
            finally:
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGTERM)  # the second one ends what still runs


def _deployment(setup: Setup) -> dict[str, Any]:
    base, *rewards = setup.sources
    most = setup.workload.requests
    return {
        "model": "bench",
        "base": {"model": str(Path(base.path).absolute())},
        "rewards": [
            {"name": reward.name, "model": str(Path(reward.path).absolute()), "default": 0.0}
            for reward in rewards
        ],
        "threads": setup.threads,
        "engine": {"max_sequences": most, "max_step_tokens": max(512, most), "prefix_share": 0.0},
        "http": {"max_queue": max(256, most)},
    }


def _url(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if "ready on" in line:
            return line.split("ready on ")[1].split()[0]
    raise RuntimeError(f"the server ended with exit code {process.wait()} before it was ready")
