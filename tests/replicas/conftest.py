"""Two replicas and two gateways on this machine, shared by all tests; each leaves two behind that are idle."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.clients.conftest import KEY
from tests.replicas.cluster import Cluster
from tests.server.conftest import Live

ADMIN, BOUNDED = "sk-admin", "sk-bounded"
LONG = {"max_position_embeddings": 4096}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those here that end replicas come last."""
    names = ("faults", "growing", "nodes", "redeploy")
    last = tuple(f"tests/replicas/test_{name}" for name in names)
    items.sort(key=lambda item: item.nodeid.startswith(last))


@pytest.fixture(scope="session")
def config(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The deployment that clients meet, with keys of three kinds."""
    folder = tmp_path_factory.mktemp("replicas")
    declared = [f"{{name: {name}, hash: '{_hash(key)}', {more}}}" for name, key, more in _KEYS]
    (folder / "keys").write_text("keys:\n" + "".join(f"  - {one}\n" for one in declared))
    path = folder / "deployment.yaml"
    path.write_text(
        f"""
model: tiny
base: {make_checkpoint("llama", "replica-base", seed=1, layers=8, **LONG)}
rewards:
  - {{name: helpful, model: {make_checkpoint("llama", "replica-helpful", seed=2, **LONG)}, default: 1.0}}
  - {{name: harmless, model: {make_checkpoint("qwen3", "replica-harmless", seed=3, **LONG)}, default: 0.0}}
presets:
  kind: {{harmless: 2.0}}
threads: 1
engine: {{max_sequences: 16}}
http: {{api_key_file: keys, drain_seconds: 60.0}}
"""
    )
    return path


_KEYS = (
    ("test", KEY, "max_concurrent: 1000"),
    ("bounded", BOUNDED, "max_concurrent: 3"),
    ("admin", ADMIN, "admin: true"),
)


def _hash(key: str) -> str:
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


@pytest.fixture(scope="session")
def cluster(config: Path) -> Iterator[Cluster]:
    """The replicas; ended as their operator would."""
    pytest.importorskip("ray.serve", reason="needs Ray: pip install 'genarm[ray]'")
    flags = ("--replicas", "2", "--gateways", "2", "--num-cpus", "0.5")
    running = Cluster(config, *flags, key=KEY, admin=ADMIN, bounded=BOUNDED)
    try:
        yield running
        code = running.end()
    finally:
        running.end()
    assert code == 0, "".join(running.printed)
    assert not any(line.startswith("Traceback") for line in running.printed)


@pytest.fixture(scope="session")
def served(cluster: Cluster) -> Cluster:
    """What the tests of clients ask for."""
    return cluster


@pytest.fixture(scope="session")
def key() -> str:
    return KEY


class Replicated(Live):
    """What the tests of the API ask for, with a key."""

    def client(self, **headers: str) -> httpx.Client:
        return super().client(**{"authorization": f"Bearer {KEY}", **headers})


@pytest.fixture(scope="session")
def real(cluster: Cluster) -> Live:
    """See ``Replicated``: what can be told by URL."""
    serving: Any = SimpleNamespace(deployment=SimpleNamespace(model="tiny"))
    server: Any = None
    return Replicated(cluster.url, serving, server, [])
