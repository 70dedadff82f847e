"""``serve deploy`` with the file of deploy/ray: what it declares is served, and one that is wrong says so and ends nothing."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

pytest.importorskip("ray.serve", reason="needs Ray: pip install 'genarm[ray]'")

from ray.serve.schema import ServeDeploySchema

from server.replicas.environment import ENVIRONMENT
from tests.clients.conftest import KEY
from tests.replicas.cluster import ROOT, TOKEN, Service, chat, environment, free_port, start

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

FILE = ROOT / "deploy" / "ray" / "serve.yaml"
READY_SECONDS = 240


def declared(text: str) -> dict[str, Any]:
    """What Serve makes of a file; it refuses keys that it does not know."""
    found: dict[str, Any] = yaml.safe_load(text)
    ServeDeploySchema.model_validate(found)
    return found


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where a Ray is told what to serve, whose nodes have what deploy/ray/Dockerfile gives them."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    process = start("tests.replicas.head", str(free_port()), stdin=subprocess.PIPE)
    assert process.stdout is not None and process.stdin is not None
    said = next(line for line in process.stdout if line.startswith("head: "))
    yield said.split()[-1]
    process.stdin.close()
    process.wait(120)
    process.stdout.close()


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.5)


def test_serves_own_command_serves_the_file(config: Path, tmp_path: Path, dashboard: str) -> None:
    asked = declared(FILE.read_text(encoding="utf-8"))
    service = Service(free_port(), key=KEY, admin="", bounded="")
    asked["http_options"] |= {"host": "127.0.0.1", "port": service.port}
    (application,) = asked["applications"]
    application["args"] |= {"config": str(config), "num_cpus": 0.5, "replicas": 1, "gateways": 1}
    _deploy(asked, tmp_path, dashboard)
    service.wait_for_replicas(1, READY_SECONDS)
    with service.client() as client:
        answer = client.post("/v1/chat/completions", json=chat(max_tokens=2), headers={"x-request-id": "a b"})
        assert answer.raise_for_status().headers["x-request-id"].startswith("req_"), "the doorway is there"

    application["args"] |= {"replicas": 0}
    _deploy(asked, tmp_path, dashboard)
    until(lambda: _status(dashboard)["status"] == "DEPLOY_FAILED")
    assert "args: replicas: Input should be greater than or equal to 1" in _status(dashboard)["message"]
    with service.client() as client:
        client.post("/v1/chat/completions", json=chat(max_tokens=2)).raise_for_status()


def _deploy(asked: dict[str, Any], folder: Path, dashboard: str) -> None:
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(asked), encoding="utf-8")
    command = [sys.executable, "-c", "from ray.serve.scripts import cli; cli()"]
    done = subprocess.run(
        [*command, "deploy", str(path), "--address", dashboard],
        env={**environment(), "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _status(dashboard: str) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {TOKEN}"}
    answer = httpx.get(f"{dashboard}/api/serve/applications/", headers=headers, timeout=30).raise_for_status()
    found: dict[str, Any] = answer.json()["applications"]["genarm"]
    return found


def test_what_kuberay_is_given_is_a_file_of_serves_too() -> None:
    service = yaml.safe_load((FILE.parent / "rayservice.yaml").read_text(encoding="utf-8"))
    assert declared(service["spec"]["serveConfigV2"]) == declared(FILE.read_text(encoding="utf-8"))
