"""``genarm deploy ray``: what is wrong is one line before anything is started."""

import socket
from typing import Any

import pytest

from server import deploy_command
from server.cli import main
from server.config import Deployment
from server.replicas.settings import ReplicaSettings


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have been deployed; there is a Ray as far as the command can tell."""
    calls: list[Any] = []

    def deploy(*args: Any) -> int:
        calls.append(args)
        return 0

    monkeypatch.setattr(deploy_command, "_deploy", deploy)
    monkeypatch.setattr(deploy_command, "find_spec", lambda _: object())
    return calls


def test_flags_say_what_is_served_and_how_often(deployed: list[Any]) -> None:
    flags = [
        "--replicas",
        "2",
        "--max-replicas",
        "4",
        "--downscale-seconds",
        "60",
        "--num-cpus",
        "0.5",
        "--port",
        "8123",
        "--address",
        "auto",
    ]
    assert main(["deploy", "ray", *flags]) == 0
    ((deployment, settings, address),) = deployed
    assert (deployment.model, deployment.http.port, address) == ("genarm-demo", 8123, "auto")
    assert settings == ReplicaSettings(replicas=2, max_replicas=4, downscale_seconds=60, num_cpus=0.5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--replicas", "0"], "replicas"),
        (["--replicas", "2", "--max-replicas", "1"], "max_replicas"),
        (["--upscale-seconds", "5"], "upscale_seconds"),
        (["--tensor-parallel", "2"], "base.tensor_parallel is 2"),
        (["--port", "0"], "--port 0"),
        (["--host", "0.0.0.0"], "--api-key-file, or --allow-anonymous"),
        (["--api-key-file", "nowhere"], "nowhere"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_what_cannot_be_deployed_is_one_line(
    deployed: list[Any], capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert main(["deploy", "ray", "--port", str(port), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert deployed == []


def test_a_port_that_is_taken_is_known_at_once(
    deployed: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["deploy", "ray", "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot listen on" in capsys.readouterr().err
    assert deployed == []


def test_without_ray_it_says_how_to_get_it(
    deployed: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(deploy_command, "find_spec", lambda _: None)
    assert main(["deploy", "ray", "--port", "8123"]) == 2
    assert "pip install 'genarm[ray]'" in capsys.readouterr().err
    assert deployed == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (ReplicaSettings(replicas=3, num_cpus=1.0), "--num-cpus: 3 replicas of 1 take 3 CPUs"),
        (ReplicaSettings(num_gpus=1), "--num-gpus"),
    ],
)
def test_a_machine_without_the_room_says_so_instead_of_waiting(settings: ReplicaSettings, said: str) -> None:
    with pytest.raises(deploy_command.UserError, match="this machine has") as error:
        deploy_command._check_room(settings, {"CPU": 2.0})
    assert said in str(error.value)
    deploy_command._check_room(ReplicaSettings(replicas=4, num_cpus=0.5), {"CPU": 2.0})


def test_what_a_replica_died_of_is_the_last_line_of_its_traceback() -> None:
    told = "Deploying application genarm failed: failed 3 times:\nTraceback\n  x\nRuntimeError: base: no such folder\n"
    assert deploy_command._reason(told) == "base: no such folder"
    assert deploy_command._reason("Failed to update.", "", told) == "base: no such folder"
    assert deploy_command._reason("Deploying failed.\nmore", "") == "Deploying failed."


@pytest.mark.parametrize(
    ("host", "port", "said"), [("127.0.0.1", 8001, "http.port"), ("0.0.0.0", 8000, "http.host")]
)
def test_a_later_version_listens_where_the_first_one_does(
    deployment: Deployment, host: str, port: int, said: str
) -> None:
    http = deployment.http.model_copy(update={"host": "127.0.0.1", "port": 8000})
    deploy_command._check_address(http, "127.0.0.1", 8000)
    with pytest.raises(deploy_command.UserError, match=f"{said} is .* listens on {host}:{port}"):
        deploy_command._check_address(http, host, port)


def test_a_cluster_that_wants_its_token_says_how_to_bring_it() -> None:
    refused = ConnectionError("Failed to connect to Ray cluster at h:1")
    assert deploy_command._refusal(refused) == "Failed to connect to Ray cluster at h:1"
    refused.__cause__ = RuntimeError("Failed:\n RPC error: InvalidAuthToken: Authentication token is missing")
    assert "~/.ray/auth_token or RAY_AUTH_TOKEN" in deploy_command._refusal(refused)
