"""``genarm deploy ray`` as users start it, and what a test does to the processes it makes."""

import contextlib
import json
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
READY_SECONDS = 400
REPLICA = b"ray::ServeReplica:genarm:replica"
GATEWAY = b"ray::ServeReplica:genarm:gateway"
REGISTRY = b"ray::ServeReplica:genarm:registry"
TOKEN = secrets.token_hex(32)


class Service:
    """Replicas at ``url``, and keys that they take."""

    def __init__(self, port: int, *, key: str, admin: str, bounded: str) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.key, self.admin, self.bounded = key, admin, bounded

    def client(self, key: str | None = None) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, timeout=120, headers={"authorization": f"Bearer {key or self.key}"}
        )

    def samples(self, name: str, **labels: str) -> dict[str, float]:
        """A metric by replica, added up over all other labels but ``labels``."""
        with self.client() as client:
            text = client.get("/metrics").raise_for_status().text
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    replica = sample.labels["replica"]
                    found[replica] = found.get(replica, 0.0) + sample.value
        return found

    def wait_for_replicas(self, number: int, seconds: float = READY_SECONDS) -> set[str]:
        """Until so many answer; their names."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(httpx.HTTPError):
                names = set(self.samples("genarm_num_requests_running"))
                if len(names) == number:
                    return names
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.5)

    def idle(self) -> None:
        """Until nothing runs."""
        deadline = time.monotonic() + 60
        while sum(self.samples("genarm_num_requests_running").values()):
            assert time.monotonic() < deadline
            time.sleep(0.1)


class Cluster(Service):
    """Replicas of one deployment on a Ray of their own, which is at ``address``; ``module``: the command."""

    def __init__(self, config: Path, *flags: str, module: str = "server.cli", **keys: str) -> None:
        super().__init__(free_port(), **keys)
        self.config, self.flags = config, flags
        self.printed: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.process = deploy(config, self.port, *flags, module=module)
        threading.Thread(target=self._read, daemon=True).start()
        said = self._until("genarm: deploying", 120)
        self.address = said.split()[-1]
        self._until("genarm: ready", READY_SECONDS)

    def redeploy(self, config: Path) -> "subprocess.Popen[str]":
        """Another version on the same cluster; ends when it is there."""
        return deploy(config, self.port, *self.flags, "--address", self.address)

    def pids(self, title: bytes) -> list[int]:
        """The processes of this cluster with this title; the oldest first."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(entry.name)
                if (entry / "cmdline").read_bytes().startswith(title) and self._is_ours(pid):
                    found.append((entry.stat().st_ctime, pid))
        return [pid for _, pid in sorted(found)]

    def end(self) -> int:
        """As its operator ends it; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(120)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)
        return self.process.returncode

    def _is_ours(self, pid: int) -> bool:
        while pid > 1 and pid != self.process.pid:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])  # its parent
        return pid > 1

    def _until(self, beginning: str, seconds: float) -> str:
        deadline = time.monotonic() + seconds
        while True:
            line = self._lines.get(timeout=max(deadline - time.monotonic(), 0.01))
            assert line is not None, "".join(self.printed)
            if line.startswith(beginning):
                return line

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as printed:
            for line in printed:
                self.printed.append(line)
                self._lines.put(line)
        self._lines.put(None)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def deploy(config: Path, port: int, *flags: str, module: str = "server.cli") -> "subprocess.Popen[str]":
    """The command."""
    arguments = ["deploy", "ray", "--config", str(config), "--port", str(port), *flags]
    return start(module, *arguments)


def start(module: str, *arguments: str, **streams: int) -> "subprocess.Popen[str]":
    """A module as a process of its own, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        cwd=ROOT,
        start_new_session=True,
        **streams,
    )


def environment() -> dict[str, str]:
    """Of every process here. Ray wants a token of who comes to a cluster that is there, and brings one only when told to."""
    own = {"OMP_NUM_THREADS": "1", "RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    return {**os.environ, **own, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}


def messages(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def chat(text: str = "hello", **fields: Any) -> dict[str, Any]:
    """The body of a chat whose answer has as many tokens as it may."""
    return {"model": "tiny", "messages": messages(text), "ignore_eos": True, "seed": 1, **fields}


@contextlib.contextmanager
def streaming(client: httpx.Client, **fields: Any) -> Iterator[tuple[str, Iterator[str]]]:
    """A stream under way: its id and its events from the second on."""
    with client.stream("POST", "/v1/chat/completions", json=chat(**fields, stream=True)) as response:
        assert response.status_code == 200, response.read()
        events = (line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: "))
        yield json.loads(next(events))["id"], events
