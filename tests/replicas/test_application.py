"""What Serve is handed: a file of Serve's opens nothing to strangers by itself, and what replicas do not have is refused."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="needs Ray: pip install 'genarm[ray]'")

from ray import serve

from arm_models.errors import UserError
from server.config import read_deployment
from server.replicas.application import application, build
from server.replicas.settings import ReplicaSettings

pytestmark = pytest.mark.ray

DEPLOYMENT = read_deployment({"model": "tiny", "base": {"model": "/models/base"}}, "test")
KEYS = "keys:\n  - {name: test, hash: 'sha256:" + "0" * 64 + "'}\n"


def deployments(app: serve.Application) -> dict[str, Any]:
    """What each deployment of it has been given, by name."""
    bound = app._bound_deployment
    found, waiting = {}, [bound]
    while waiting:
        one = waiting.pop()
        found[one.name] = one
        waiting += [
            given._bound_deployment for given in one.init_args if isinstance(given, serve.Application)
        ]
    return found


@pytest.mark.parametrize(
    ("http", "more", "said"),
    [
        ("", "", "give http.api_key_file, or http.allow_anonymous"),
        ("http: {host: 127.0.0.1}", "", "give http.api_key_file, or http.allow_anonymous"),
        ("http: {api_key_file: nowhere}", "", "nowhere"),
        ("http: {api_key_file: keys}", ", tensor_parallel: 2", "base.tensor_parallel is 2"),
    ],
)
def test_a_file_that_cannot_be_served_is_one_line(tmp_path: Path, http: str, more: str, said: str) -> None:
    (tmp_path / "keys").write_text(KEYS)
    config = tmp_path / "deployment.yaml"
    config.write_text(f"model: tiny\nbase: {{model: /models/base{more}}}\n{http}\n")
    with pytest.raises(UserError, match=said):
        build({"config": str(config)})


@pytest.mark.parametrize("http", ["{api_key_file: keys}", "{allow_anonymous: true}"])
def test_a_file_that_says_who_is_let_in_is_served(tmp_path: Path, http: str) -> None:
    (tmp_path / "keys").write_text(KEYS)
    config = tmp_path / "deployment.yaml"
    config.write_text(f"model: tiny\nbase: {{model: /models/base}}\nhttp: {http}\n")
    found = deployments(build({"config": str(config), "replicas": 3, "num_cpus": 2}))
    assert found["replica"].num_replicas == 3
    assert found["replica"].ray_actor_options["num_cpus"] == 2


def test_there_are_more_replicas_where_they_are_allowed() -> None:
    settings = ReplicaSettings(replicas=2, max_replicas=5, upscale_seconds=7, downscale_seconds=70)
    scaling = deployments(application(DEPLOYMENT, settings))["replica"]._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.initial_replicas, scaling.max_replicas) == (2, 2, 5)
    assert scaling.target_ongoing_requests == DEPLOYMENT.engine.max_sequences
    assert (scaling.upscale_delay_s, scaling.downscale_delay_s) == (7, 70)


def test_serve_bounds_more_than_the_app_lets_in_and_waits_longer_than_it() -> None:
    found = deployments(application(DEPLOYMENT, ReplicaSettings()))
    admitted = DEPLOYMENT.engine.max_sequences + DEPLOYMENT.http.max_queue
    assert found["replica"].max_ongoing_requests > admitted
    assert found["replica"].max_queued_requests > admitted
    waits = {name: one._deployment_config.graceful_shutdown_timeout_s for name, one in found.items()}
    assert DEPLOYMENT.http.drain_seconds < waits["replica"] < waits["gateway"]
