"""What lies in deploy/ray: the image has what Ray and KubeRay need of it, and the pods hold what Serve puts on them. What Serve
and the server make of the files is in tests/replicas/test_files.py and tests/server/replicas/test_settings.py.
"""

import math
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.replicas.environment import ENVIRONMENT


@pytest.fixture(scope="module")
def image(root: Path) -> str:
    lines = (root / "deploy" / "ray" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")


@pytest.fixture(scope="module")
def service(root: Path) -> dict[str, Any]:
    text = (root / "deploy" / "ray" / "rayservice.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@pytest.fixture(scope="module")
def application(service: dict[str, Any]) -> dict[str, Any]:
    (found,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    return dict(found["args"])


def groups(service: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = service["spec"]["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_the_image_has_the_doorway_and_what_kuberay_asks_with(image: str) -> None:
    assert {f"{name}={value}" for name, value in ENVIRONMENT.items()} <= set(image.split())
    assert re.search(r"apt-get install --yes --no-install-recommends wget\b", image)
    assert re.findall(r"^USER (\S+)$", image, re.MULTILINE)[-1] == "10001:10001"


def test_ray_is_the_same_in_the_image_and_for_kuberay_and_one_that_is_asked_for(
    root: Path, image: str, service: dict[str, Any]
) -> None:
    (version,) = re.findall(r"'ray\[serve\]==([\d.]+)'", image)
    assert service["spec"]["rayClusterConfig"]["rayVersion"] == version
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (asked,) = project["optional-dependencies"]["ray"]
    assert asked == f"ray[serve]>={version.rpartition('.')[0]},<{int(version.partition('.')[0]) + 1}"


def test_only_fields_of_kuberays_v1_are_used(service: dict[str, Any]) -> None:
    """As its reference lists them; a CRD is not there to be asked."""
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    assert service["spec"].keys() == {"serveConfigV2", "rayClusterConfig"}
    cluster = service["spec"]["rayClusterConfig"]
    assert cluster.keys() == {"rayVersion", "enableInTreeAutoscaling", "headGroupSpec", "workerGroupSpecs"}
    assert cluster["headGroupSpec"].keys() == {"rayStartParams", "template"}
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() == {
            "groupName",
            "replicas",
            "minReplicas",
            "maxReplicas",
            "rayStartParams",
            "template",
        }
    for group in groups(service):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_a_pod_has_room_for_one_replica_and_there_may_be_pods_enough(
    service: dict[str, Any], application: dict[str, Any]
) -> None:
    (workers,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    cpus = int(container["resources"]["limits"]["cpu"])
    assert application["num_cpus"] <= cpus < 2 * application["num_cpus"]
    surge = 1 + application["surge_percent"] / 100
    assert workers["maxReplicas"] >= math.ceil(application["max_replicas"] * surge)
    assert workers["minReplicas"] == workers["replicas"] == application["replicas"]


def test_pods_are_kept_small_and_the_head_runs_no_replica(service: dict[str, Any]) -> None:
    assert groups(service)[0]["rayStartParams"]["num-cpus"] == "0"
    for group in groups(service):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert container["image"] == "genarm:ray"
            assert all(mount["readOnly"] for mount in container["volumeMounts"])
