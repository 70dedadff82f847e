"""docker compose: nothing is open to other machines, nothing may more than it needs, and every file named is there."""

import argparse
import itertools
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from server import serve_command
from server.access import Hosts
from server.config import HttpSettings

OVERRIDES = ("keys", "gpu", "models")
VARIANTS = [
    (),
    ("keys",),
    ("gpu",),
    ("keys", "gpu"),
    ("gpu", "keys"),
    ("keys", "models"),
    ("keys", "models", "gpu"),
]


@pytest.fixture(params=VARIANTS, ids=lambda names: "+".join(names) or "plain")
def services(
    request: pytest.FixtureRequest, compose: Callable[..., dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    files = [f"deploy/compose/{name}.yml" for name in request.param]
    found: dict[str, dict[str, Any]] = compose("docker-compose.yml", *files)["services"]
    return found


def flags(service: dict[str, Any]) -> argparse.Namespace:
    """The server's command line as the server reads it."""
    word, *given = service["command"]
    assert word == "serve"
    parser = argparse.ArgumentParser()
    serve_command.add_arguments(parser)
    return parser.parse_args(given)


def seconds(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60}[unit]


def test_every_override_is_used(root: Path) -> None:
    assert {path.stem for path in (root / "deploy" / "compose").iterdir()} == set(OVERRIDES)
    assert set(itertools.chain(*VARIANTS)) == set(OVERRIDES)


def test_ports_are_published_on_loopback_only(services: dict[str, dict[str, Any]]) -> None:
    published = [port for service in services.values() for port in service["ports"]]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert not any("network_mode" in service for service in services.values())


def test_services_can_change_nothing_but_their_own_data(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "pid", "ipc", "user"} & set(service), name
        for volume in service["volumes"]:
            source, _, rest = volume.partition(":")
            assert rest.endswith(":ro") or source.isalnum(), volume


def test_files_of_this_repository_that_are_mounted_are_there(
    root: Path, services: dict[str, dict[str, Any]]
) -> None:
    mounted = {volume.split(":")[0] for service in services.values() for volume in service["volumes"]}
    for source in mounted:
        if source.startswith("./deploy"):
            assert (root / source).exists(), source


def test_images_have_a_full_version(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        if name == "server":
            assert service["image"] == f"genarm:{service['build']['target']}"
        else:
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), service["image"]


def test_a_stop_waits_longer_than_the_drain(services: dict[str, dict[str, Any]], ending_seconds: int) -> None:
    server = services["server"]
    assert seconds(server["stop_grace_period"]) >= flags(server).drain_seconds + ending_seconds


def test_the_server_listens_where_the_port_and_the_check_lead(services: dict[str, dict[str, Any]]) -> None:
    server = services["server"]
    given = flags(server)
    assert given.host == "0.0.0.0"
    assert server["ports"][0].endswith(f":{given.port}")
    assert f"http://127.0.0.1:{given.port}/ready" in server["healthcheck"]["test"][-1]


def test_on_a_gpu_the_models_go_there(services: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """But where a file says where each goes. What is run is what the container runs, up to the server itself."""
    server = services["server"]
    if server["build"]["target"] != "gpu":
        assert "entrypoint" not in server
        assert flags(server).device is None
        return
    (tmp_path / "genarm").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    (tmp_path / "genarm").chmod(0o755)
    done = subprocess.run(
        [*(part.replace("$$", "$") for part in server["entrypoint"]), *server["command"]],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    given = done.stdout.splitlines()
    assert given[: len(server["command"])] == server["command"]
    device = flags({"command": given}).device
    assert device == (None if "--config" in server["command"] else "cuda")


def test_strangers_are_let_in_only_where_no_keys_are(services: dict[str, dict[str, Any]]) -> None:
    command = services["server"]["command"]
    assert ("--allow-anonymous" in command) != ("--api-key-file" in command)
    if "--api-key-file" in command:
        assert "./secrets:/run/keys:ro" in services["server"]["volumes"]


def test_without_keys_pages_under_other_names_are_not_answered(
    root: Path, services: dict[str, dict[str, Any]]
) -> None:
    """And Prometheus is, under the name that it knows."""
    given = flags(services["server"])
    scraped = yaml.safe_load((root / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    ((target,),) = (one["targets"] for one in scraped["scrape_configs"][0]["static_configs"])
    http = HttpSettings(host=given.host, allowed_hosts=tuple(given.allowed_hosts or ()))
    hosts = Hosts(http, anonymous=given.api_key_file is None)
    assert hosts.accepts(target)
    assert hosts.accepts("localhost:8000")
    assert hosts.accepts("evil.example:8000") == (given.api_key_file is not None)


def test_prometheus_sends_a_key_where_the_server_wants_one(
    root: Path, services: dict[str, dict[str, Any]]
) -> None:
    prometheus = services["prometheus"]
    (flag,) = (one for one in prometheus["command"] if one.startswith("--config.file="))
    mount = next(volume.split(":")[:2] for volume in prometheus["volumes"] if volume.startswith("./"))
    config = root / mount[0] / Path(flag.partition("=")[2]).relative_to(mount[1])
    declared = yaml.safe_load(config.read_text(encoding="utf-8"))
    (scrape,) = declared["scrape_configs"]
    keyed = "--api-key-file" in services["server"]["command"]
    assert ("authorization" in scrape) == keyed
    if keyed:
        folder, name = scrape["authorization"]["credentials_file"].rsplit("/", 1)
        assert name == "metrics_key"
        # The folder: a file that is replaced would stay the old one in there.
        assert f"./secrets:{folder}:ro" in prometheus["volumes"]
        assert "secrets" not in prometheus
    for name in declared["rule_files"]:
        assert (config.parent / name).exists()


def test_the_two_ways_to_read_a_server_differ_in_the_key_alone(root: Path) -> None:
    folder = root / "deploy" / "prometheus"
    plain = yaml.safe_load((folder / "prometheus.yml").read_text(encoding="utf-8"))
    keyed = yaml.safe_load((folder / "prometheus-with-key.yml").read_text(encoding="utf-8"))
    del keyed["scrape_configs"][0]["authorization"]
    assert keyed == plain


def test_grafana_finds_its_data_and_its_dashboard(root: Path, services: dict[str, dict[str, Any]]) -> None:
    grafana = services["grafana"]
    places = {
        target: root / source
        for source, target, _ in (one.split(":") for one in grafana["volumes"] if "./" in one)
    }
    provisioning = places["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["uid"] == "prometheus"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "genarm.yml").read_text())["providers"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert (places[provider["options"]["path"]] / home.name).exists()


def test_nobody_can_sign_in_to_grafana(services: dict[str, dict[str, Any]]) -> None:
    environment = services["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert not [name for name in environment if "PASSWORD" in name]
