"""The manifests: they hold together, a pod drains in the time it gets, and it runs under the restricted standard. Schemas
are checked in test_linters.py.
"""

import argparse
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from arm_models.errors import UserError
from server import serve_command
from server.config import Deployment, read_deployment

Manifests = dict[str, dict[str, Any]]


@pytest.fixture(params=["base", "gpu"])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cluster(variant: str, manifests: Callable[[str], list[dict[str, Any]]]) -> Manifests:
    """What is applied, by kind."""
    found = {manifest["kind"]: manifest for manifest in manifests(variant)}
    assert len(found) == len(manifests(variant))
    return found


@pytest.fixture
def pod(cluster: Manifests) -> dict[str, Any]:
    spec: dict[str, Any] = cluster["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def server(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["containers"]
    return dict(container)


@pytest.fixture
def deployment(cluster: Manifests) -> Deployment:
    """The ConfigMap as the server reads it."""
    return read_deployment(yaml.safe_load(cluster["ConfigMap"]["data"]["deployment.yaml"]), "configmap")


def test_every_manifest_of_the_folder_is_applied(root: Path) -> None:
    for name in ("base", "gpu"):
        folder = root / "deploy" / "kubernetes" / name
        declared = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
        named = {*declared["resources"], *(patch["path"] for patch in declared.get("patches", []))}
        files = {path.name for path in folder.iterdir()} - {"kustomization.yaml"}
        assert files == {one for one in named if one.endswith(".yaml")}


def test_kubectl_builds_the_same(
    root: Path, variant: str, manifests: Callable[[str], list[dict[str, Any]]]
) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    folder = root / "deploy" / "kubernetes" / variant
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True, timeout=60
    )
    built = {one["kind"]: one for one in yaml.safe_load_all(done.stdout)}
    assert built == {one["kind"]: one for one in manifests(variant)}


def test_the_configuration_is_one_that_the_server_reads(
    deployment: Deployment, pod: dict[str, Any], server: dict[str, Any]
) -> None:
    parser = argparse.ArgumentParser()
    serve_command.add_arguments(parser)
    config = parser.parse_args(server["args"][1:]).config
    mounts = {mount["name"]: mount["mountPath"] for mount in server["volumeMounts"]}
    assert str(config) == f"{mounts['deployment']}/deployment.yaml"
    assert deployment.http.host == "0.0.0.0"
    assert [deployment.http.port] == [port["containerPort"] for port in server["ports"]]
    (secret,) = (volume["secret"] for volume in pod["volumes"] if "secret" in volume)
    assert deployment.http.api_key_file == f"{mounts['keys']}/keys"
    assert secret["secretName"] == "genarm-keys"
    for model in (deployment.base, *deployment.rewards):
        assert model.model.startswith(f"{mounts['models']}/")


def test_a_pod_has_the_time_that_its_drain_takes(
    deployment: Deployment, pod: dict[str, Any], server: dict[str, Any], ending_seconds: int
) -> None:
    program, wait = server["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    assert pod["terminationGracePeriodSeconds"] >= int(wait) + deployment.http.drain_seconds + ending_seconds


def test_a_pod_leaves_the_service_before_it_refuses(server: dict[str, Any]) -> None:
    """preStop lasts longer than readiness needs to be seen, and endpoints a while to spread."""
    probe = server["readinessProbe"]
    wait = int(server["lifecycle"]["preStop"]["exec"]["command"][1])
    assert wait >= probe["periodSeconds"] * probe["failureThreshold"]


def test_probes_ask_ready_for_traffic_and_health_for_life(server: dict[str, Any]) -> None:
    asked = {name: server[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: get["path"] for name, get in asked.items()} == {
        "startup": "/ready",
        "readiness": "/ready",
        "liveness": "/health",
    }
    assert {get["port"] for get in asked.values()} == {server["ports"][0]["name"]}
    startup = server["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 1800


def test_a_rollout_is_not_given_up_while_models_may_load(cluster: Manifests, server: dict[str, Any]) -> None:
    startup = server["startupProbe"]
    loading = startup["periodSeconds"] * startup["failureThreshold"]
    assert cluster["Deployment"]["spec"]["progressDeadlineSeconds"] > loading


def test_pods_keep_to_the_restricted_standard(
    cluster: Manifests, pod: dict[str, Any], server: dict[str, Any]
) -> None:
    labels = cluster["Namespace"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert server["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert not any("hostPath" in volume for volume in pod["volumes"])


def test_the_server_has_no_word_in_the_cluster(cluster: Manifests, pod: dict[str, Any]) -> None:
    assert pod["serviceAccountName"] == cluster["ServiceAccount"]["metadata"]["name"]
    assert pod["automountServiceAccountToken"] is False
    assert cluster["ServiceAccount"]["automountServiceAccountToken"] is False
    assert "Role" not in cluster and "ClusterRole" not in cluster


def test_only_caches_can_be_written(pod: dict[str, Any], server: dict[str, Any]) -> None:
    written = {mount["name"] for mount in server["volumeMounts"] if not mount.get("readOnly")}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(volumes) == {mount["name"] for mount in server["volumeMounts"]}
    assert {mount["mountPath"] for mount in server["volumeMounts"] if mount["name"] in written} == {
        "/tmp",
        "/var/cache/genarm",
    }
    assert all(volumes[name]["emptyDir"]["sizeLimit"] for name in written)


def test_keys_that_change_come_through(server: dict[str, Any]) -> None:
    """A file mounted by subPath stays what it was when the pod started."""
    assert not any("subPath" in mount for mount in server["volumeMounts"])


def test_a_forward_has_as_many_threads_as_the_container_has_cpus(
    deployment: Deployment, server: dict[str, Any], variant: str
) -> None:
    assert server["resources"]["requests"]["cpu"] == str(deployment.threads)
    if variant == "base":
        assert server["resources"]["limits"]["cpu"] == str(deployment.threads)
    assert server["resources"]["limits"]["memory"] == server["resources"]["requests"]["memory"]


def test_a_gpu_is_asked_for_and_used(manifests: Callable[[str], list[dict[str, Any]]]) -> None:
    (workload,) = (one for one in manifests("gpu") if one["kind"] == "Deployment")
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "genarm:gpu"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    (config,) = (one for one in manifests("gpu") if one["kind"] == "ConfigMap")
    declared = read_deployment(yaml.safe_load(config["data"]["deployment.yaml"]), "configmap")
    assert {model.device for model in (declared.base, *declared.rewards)} == {"cuda:0"}
    assert workload["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_everything_means_the_same_pods(cluster: Manifests) -> None:
    labels = cluster["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert cluster["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert cluster["Service"]["spec"]["selector"] == labels
    assert cluster["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert cluster["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    target = cluster["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", cluster["Deployment"]["metadata"]["name"])
    assert "replicas" not in cluster["Deployment"]["spec"]


def test_everything_lies_in_one_namespace(cluster: Manifests) -> None:
    name = cluster["Namespace"]["metadata"]["name"]
    for kind, manifest in cluster.items():
        assert kind == "Namespace" or manifest["metadata"]["namespace"] == name


def test_the_service_leads_to_the_server_and_keeps_a_client_there(
    cluster: Manifests, server: dict[str, Any]
) -> None:
    (port,) = cluster["Service"]["spec"]["ports"]
    assert port["targetPort"] == server["ports"][0]["name"]
    assert cluster["Service"]["spec"]["sessionAffinity"] == "ClientIP"


def test_a_disruption_takes_one_replica_of_several(cluster: Manifests) -> None:
    assert cluster["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert cluster["HorizontalPodAutoscaler"]["spec"]["minReplicas"] >= 2


def test_replicas_follow_a_metric_that_the_adapter_makes(root: Path, cluster: Manifests) -> None:
    (metric,) = cluster["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    folder = root / "deploy" / "kubernetes" / "monitoring"
    (rule,) = yaml.safe_load((folder / "adapter-values.yaml").read_text(encoding="utf-8"))["rules"]["custom"]
    assert rule["seriesQuery"].startswith(f"{name}{{")
    monitor = yaml.safe_load((folder / "podmonitor.yaml").read_text(encoding="utf-8"))
    assert monitor["spec"]["selector"]["matchLabels"] == cluster["Service"]["spec"]["selector"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == cluster["Service"]["spec"]["ports"][0]["targetPort"]
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "genarm"}]


def test_a_queue_is_long_before_it_is_full(cluster: Manifests, deployment: Deployment) -> None:
    (metric,) = cluster["HorizontalPodAutoscaler"]["spec"]["metrics"]
    wanted = int(metric["pods"]["target"]["averageValue"])
    assert 0 < wanted * 4 <= deployment.http.max_queue


def test_only_who_is_labelled_reaches_the_port_and_nothing_is_reached_from_it(cluster: Manifests) -> None:
    policy = cluster["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    (rule,) = policy["ingress"]
    for source in rule["from"]:
        (selector,) = source.values()
        assert selector["matchLabels"] == {"genarm/client": "true"}


def test_no_secret_is_applied_and_the_example_starts_nothing(
    root: Path, cluster: Manifests, tmp_path: Path
) -> None:
    assert "Secret" not in cluster
    example = yaml.safe_load(
        (root / "deploy" / "kubernetes" / "secret.example.yaml").read_text(encoding="utf-8")
    )
    assert example["metadata"]["namespace"] == cluster["Namespace"]["metadata"]["name"]
    (tmp_path / "keys").write_text(example["stringData"]["keys"], encoding="utf-8")
    parser = argparse.ArgumentParser()
    serve_command.add_arguments(parser)
    flags = parser.parse_args(["--port", "0", "--api-key-file", str(tmp_path / "keys")])
    with pytest.raises(UserError, match=re.compile("holds no key")):
        serve_command.run(flags)
