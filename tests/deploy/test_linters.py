"""Other people's linters over what lies in deploy/: ``make test-operations``."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.operations

OVERRIDES = [(), ("keys",), ("gpu",), ("keys", "gpu"), ("keys", "models"), ("keys", "models", "gpu")]
KUBERNETES = ["1.30", "1.37"]
"""The oldest and the newest whose schemas the manifests keep to."""


def accepted(*command: str | Path, given: str | None = None, folder: Path | None = None) -> None:
    done = subprocess.run(
        command, input=given, cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def refused(*command: str | Path, given: str | None = None) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    return done.stdout + done.stderr


def test_hadolint_has_nothing_to_say(root: Path, tool: Callable[[str], str]) -> None:
    for image in (root / "Dockerfile", root / "deploy" / "ray" / "Dockerfile"):
        accepted(tool("hadolint"), "--no-color", "--failure-threshold=style", image)


def test_compose_files_keep_to_the_specification(
    tool: Callable[[str], str], compose: Callable[..., dict[str, Any]]
) -> None:
    python = Path(tool("hadolint")).with_name("python")
    reading = "import sys, compose_spec; compose_spec.PyCompose.from_yaml(sys.stdin.read())"
    for names in OVERRIDES:
        merged = compose("docker-compose.yml", *(f"deploy/compose/{name}.yml" for name in names))
        accepted(python, "-c", reading, given=json.dumps(merged))
    merged["services"]["server"]["restrat"] = "always"
    assert "restrat" in refused(python, "-c", reading, given=json.dumps(merged))


@pytest.mark.parametrize("release", KUBERNETES)
@pytest.mark.parametrize("variant", ["base", "gpu"])
def test_manifests_keep_to_the_schemas(
    release: str,
    variant: str,
    tool: Callable[[str], str],
    manifests: Callable[[str], list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    check = [tool("kubernetes-validate"), "--strict", "-k", release]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(manifests(variant)), encoding="utf-8")
    accepted(*check, tmp_path / "all.yaml")
    wrong = manifests(variant)
    (workload,) = (manifest for manifest in wrong if manifest["kind"] == "Deployment")
    workload["spec"]["template"]["spec"]["terminationGracePeriod"] = 90
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump_all(wrong), encoding="utf-8")
    assert "terminationGracePeriod" in refused(*check, tmp_path / "wrong.yaml")


@pytest.mark.parametrize("release", KUBERNETES)
def test_pods_of_a_ray_cluster_keep_to_the_schema(
    release: str, root: Path, tool: Callable[[str], str], tmp_path: Path
) -> None:
    """KubeRay's own kinds are not Kubernetes'; what it makes of them are these pods."""
    service = yaml.safe_load((root / "deploy" / "ray" / "rayservice.yaml").read_text(encoding="utf-8"))
    cluster = service["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, **group["template"]}
        for group in groups
    ]
    check = [tool("kubernetes-validate"), "--strict", "-k", release]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(pods), encoding="utf-8")
    accepted(*check, tmp_path / "all.yaml")
    pods[-1]["spec"]["terminationGracePeriod"] = 90
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump_all(pods), encoding="utf-8")
    assert "terminationGracePeriod" in refused(*check, tmp_path / "wrong.yaml")


def test_the_example_of_a_secret_keeps_to_its_schema(root: Path, tool: Callable[[str], str]) -> None:
    example = root / "deploy" / "kubernetes" / "secret.example.yaml"
    accepted(tool("kubernetes-validate"), "--strict", "-k", KUBERNETES[-1], example)


def test_prometheus_reads_its_files(root: Path, tool: Callable[[str], str], tmp_path: Path) -> None:
    """The key's file is another's to give: an empty one stands in for it."""
    folder = tmp_path / "prometheus"
    shutil.copytree(root / "deploy" / "prometheus", folder)
    keyed = folder / "prometheus-with-key.yml"
    (tmp_path / "key").touch()
    keyed.write_text(keyed.read_text().replace("/run/secrets/metrics_key", str(tmp_path / "key")))
    for config in (folder / "prometheus.yml", keyed):
        accepted(tool("promtool"), "check", "config", "--lint=all", "--lint-fatal", config)


def test_every_alert_fires_when_it_should_and_else_is_silent(
    root: Path, tool: Callable[[str], str], tmp_path: Path
) -> None:
    """Each alert has a case in which it fires and one in which it does not: see the file."""
    shutil.copy(root / "deploy" / "prometheus" / "alerts.yml", tmp_path)
    shutil.copy(root / "tests" / "deploy" / "alerts_test.yml", tmp_path)
    (group,) = yaml.safe_load((tmp_path / "alerts.yml").read_text())["groups"]
    cases = [case for test in yaml.safe_load((tmp_path / "alerts_test.yml").read_text())["tests"]
             for case in test["alert_rule_test"]]  # fmt: skip
    names = {rule["alert"] for rule in group["rules"]}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == names
    accepted(tool("promtool"), "test", "rules", "alerts_test.yml", folder=tmp_path)


def test_a_server_that_only_fails_is_shown_as_that(
    root: Path, tool: Callable[[str], str], tmp_path: Path
) -> None:
    """Nothing was ever under way."""
    panels = json.loads((root / "deploy/grafana/dashboards/genarm.json").read_text(encoding="utf-8"))[
        "panels"
    ]
    (panel,) = (panel for panel in panels if panel["title"] == "Failed")
    expression = panel["targets"][0]["expr"].replace("$__rate_interval", "1m")
    series = 'genarm_request_failure_total{instance="a:8000",model_name="m",status="503"}'
    answered = 'genarm_e2e_request_latency_seconds_count{instance="a:8000",model_name="m"}'
    case = {
        "interval": "15s",
        "input_series": [{"series": series, "values": "0+1x40"}, {"series": answered, "values": "0x40"}],
        "promql_expr_test": [
            {
                "expr": expression.replace("$model", ".*").replace("$instance", ".*"),
                "eval_time": "5m",
                "exp_samples": [{"labels": "{}", "value": 1}],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(json.dumps({"evaluation_interval": "15s", "tests": [case]}))
    accepted(tool("promtool"), "test", "rules", "test.yml", folder=tmp_path)
