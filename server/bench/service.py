"""Servers in processes of their own, as their users have them: ours, and transformers'."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from arm_models.loading import ModelSource
from server.bench.malloc import malloc_environment
from server.bench.setup import GPU_SHARE, Setup

START_SECONDS = 300.0
"""Within which a server has to be ready."""


@contextmanager
def running_server(setup: Setup, *, guided: bool = True, keys: Sequence[str] = ()) -> Iterator[str]:
    """The URL of a server of the setup's models, with room for all its requests; it ends with the block. Without the rewards
    unless ``guided``; only for ``keys``, if there are any.

    Raises:
        RuntimeError: it did not become ready.
    """
    with tempfile.TemporaryDirectory(prefix="genarm-bench-") as folder:
        deployment = _deployment(setup, guided)
        if keys:
            Path(folder, "keys").write_text("".join(f"{key}\n" for key in keys))
            deployment["http"]["api_key_file"] = "keys"
        with _serve(setup, deployment, Path(folder)) as server:
            yield server.url


class Serving(NamedTuple):
    """A server in a process of its own."""

    url: str
    pid: int


@contextmanager
def running_replica(setup: Setup, engine: Mapping[str, Any], *, max_queue: int) -> Iterator[Serving]:
    """A server of the setup's models with these ``engine`` settings; it ends with the block.

    Raises:
        RuntimeError: it did not become ready.
    """
    deployment = _deployment(setup, True)
    deployment["engine"] |= engine
    deployment["http"]["max_queue"] = max_queue
    with (
        tempfile.TemporaryDirectory(prefix="genarm-bench-") as folder,
        _serve(setup, deployment, Path(folder)) as server,
    ):
        yield server


@contextmanager
def _serve(setup: Setup, deployment: Mapping[str, Any], folder: Path) -> Iterator[Serving]:
    """What ``deployment`` declares, written to ``folder``."""
    config = folder / "deployment.yaml"
    config.write_text(json.dumps(deployment))  # JSON is YAML
    command = [sys.executable, "-m", "server.cli", "serve", "--config", str(config), "--port", "0"]
    with _process(command, setup, stdout=subprocess.PIPE) as process:
        yield Serving(_url(process), process.pid)


@contextmanager
def ray_server(setup: Setup, replicas: int, engine: Mapping[str, Any] | None = None) -> Iterator[str]:
    """The URL of so many replicas of the setup's models behind Ray Serve, each with torch's threads as here and with these
    ``engine`` settings; they end with the block.

    Raises:
        RuntimeError: they did not become ready.
    """
    with tempfile.TemporaryDirectory(prefix="genarm-bench-") as folder:
        config = Path(folder, "deployment.yaml")
        deployment = _deployment(setup, guided=True)
        deployment["engine"] |= engine or {}
        config.write_text(json.dumps(deployment))  # JSON is YAML
        command = [sys.executable, "-m", "server.cli", "deploy", "ray", "--config", str(config)]
        # What Ray reserves bounds nobody; the threads are the deployment's.
        command += ["--port", str(_free_port()), "--replicas", str(replicas), "--num-cpus", "0.1"]
        with _process(command, setup, stdout=subprocess.PIPE, patience=60) as process:
            url = _url(process)
            # Replicas go on to write to the log that they share with the command: a full pipe would stop them.
            threading.Thread(target=_drain, args=(process,), daemon=True).start()
            yield url


def _drain(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    for _ in process.stdout:
        pass


@contextmanager
def transformers_server(setup: Setup) -> Iterator[tuple[str, str]]:
    """URL and model id of ``transformers serve --continuous-batching`` of the setup's base; it ends with the block.

    Its cache has room for all requests and it reads as many tokens a step as ours. The base is served from a copy that names
    no end-of-text: the server has no ``ignore_eos``.

    Raises:
        RuntimeError: it did not become ready.
    """
    requests = setup.workload.requests
    longest = setup.workload.prompt[1] + setup.workload.response[1]
    pages = requests * -(-longest // _PAGE) + 16
    with tempfile.TemporaryDirectory(prefix="genarm-bench-") as folder:
        endless = _without_eos(setup.sources[0], Path(folder, "base"))
        port = _free_port()
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(endless)]
        command += ["--continuous-batching", "--device", setup.models.device, "--port", str(port)]
        command += ["--host", "127.0.0.1", "--cb-num-blocks", str(pages), "--log-level", "error"]
        command += ["--cb-max-batch-tokens", str(max(512, requests)), "--dtype", _dtype(setup)]
        with _process(command, setup, stdout=subprocess.DEVNULL) as process:
            url = f"http://127.0.0.1:{port}"
            _wait(process, url)
            yield url, str(endless)


_PAGE = 256  # tokens of a page of transformers' cache, where nothing else is asked for


def _dtype(setup: Setup) -> str:
    """As ours has it: ``auto`` is float32 on a CPU and the checkpoint's own on a GPU."""
    if setup.models.dtype == "auto" and setup.models.device == "cpu":
        return "float32"
    return setup.models.dtype


@contextmanager
def _process(
    command: Sequence[str], setup: Setup, stdout: int, patience: float = 0
) -> "Iterator[subprocess.Popen[str]]":
    """With torch's threads and malloc as here; ``patience``: seconds that it gets to end what still runs."""
    environment = {**os.environ, **malloc_environment(), "OMP_NUM_THREADS": str(setup.threads)}
    with subprocess.Popen(
        command, stdout=stdout, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            if not patience:
                process.send_signal(signal.SIGTERM)  # the second one ends what still runs
            try:
                process.wait(patience or 10)
            except subprocess.TimeoutExpired:
                process.kill()


def _deployment(setup: Setup, guided: bool) -> dict[str, Any]:
    base, *rewards = setup.sources
    most = setup.workload.requests
    return {
        "model": "bench",
        "base": _member(base),
        "rewards": [
            {"name": reward.name, "default": 0.0} | _member(reward) for reward in (rewards if guided else [])
        ],
        "threads": setup.threads,
        "engine": {
            "max_sequences": most,
            "max_step_tokens": max(512, most),
            "prefix_share": 0.0,
            "cpu_cache_bytes": setup.limits.cache_bytes,
            "gpu_memory_fraction": GPU_SHARE,
        },
        "http": {"max_queue": max(256, most)},
    }


def _member(source: ModelSource) -> dict[str, Any]:
    return {"model": str(Path(source.path).absolute()), "device": source.device, "dtype": source.dtype}


def _url(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if "ready on" in line:
            return line.split("ready on ")[1].split()[0]
    raise RuntimeError(f"the server ended with exit code {process.wait()} before it was ready")


def _wait(process: "subprocess.Popen[str]", url: str) -> None:
    """Until the server, which says so nowhere else, answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with exit code {process.returncode} before it was ready")
        try:
            if httpx.get(f"{url}/health").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise RuntimeError(f"the server was not ready after {START_SECONDS:.0f} s")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _without_eos(source: ModelSource, folder: Path) -> Path:
    """A copy of a model that names no end-of-text, its weights linked."""
    folder.mkdir()
    for path in Path(source.path).absolute().iterdir():
        if path.suffix == ".safetensors":
            (folder / path.name).symlink_to(path)
        elif path.is_file():
            shutil.copy(path, folder)
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        if path.is_file():
            path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": None}))
    return folder
