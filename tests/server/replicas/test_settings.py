"""How many replicas there are is declared once, checked, and in the files of deploy/ray as it is here."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from arm_models.errors import UserError
from server.config import Deployment, read_deployment
from server.replicas.settings import MOST_BODY, ReplicaSettings, check_carried, read_settings

RAY = Path(__file__).parents[3] / "deploy" / "ray"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"replicas": 0}, "replicas: Input should be greater than or equal to 1"),
        ({"replicas": 3, "max_replicas": 2}, "max_replicas must not be below replicas"),
        ({"target_ongoing": 5}, "max_replicas has to allow"),
        ({"num_cpus": -1}, "num_cpus"),
        ({"surge_percent": 101}, "surge_percent"),
        (
            {"downscale_seconds": 5.0},
            "downscale_seconds: their number changes only where max_replicas allows it",
        ),
        ({"max_replicas": 2, "upscale_seconds": -1}, "upscale_seconds"),
        ({"gateway": 2}, "gateway: unknown key"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        read_settings(given, "args")
    assert str(error.value).startswith("args: ")
    assert said in str(error.value)


def test_without_a_word_there_is_one_of_each() -> None:
    settings = read_settings({}, "args")
    assert (settings.replicas, settings.gateways, settings.max_replicas) == (1, 1, None)
    assert settings == ReplicaSettings()


def test_a_base_that_is_split_is_refused_by_its_key(deployment: Deployment) -> None:
    check_carried(deployment)
    split = deployment.model_copy(update={"base": deployment.base.model_copy(update={"tensor_parallel": 2})})
    with pytest.raises(UserError, match=r"base\.tensor_parallel is 2, .* must be 1 here"):
        check_carried(split)


def test_a_deployment_travels_to_its_replicas_unchanged(deployment: Deployment) -> None:
    bounded = deployment.model_dump() | {"weight_ranges": {"helpful": [None, 2.0]}}
    for one in (deployment, read_deployment(bounded, "test")):
        assert read_deployment(one.model_dump(mode="json"), "deployment") == one


def test_bodies_that_the_proxy_would_cut_off_are_not_promised(deployment: Deployment) -> None:
    def bounded(size: int) -> Deployment:
        declared = deployment.model_dump()
        return read_deployment({**declared, "http": {**declared["http"], "max_body_bytes": size}}, "test")

    check_carried(bounded(MOST_BODY))
    with pytest.raises(UserError, match=r"^http.max_body_bytes is 67108865, .* at most 67108864 bytes"):
        check_carried(bounded(MOST_BODY + 1))


def test_the_files_for_a_cluster_are_read_and_say_the_same() -> None:
    serve = yaml.safe_load((RAY / "serve.yaml").read_text(encoding="utf-8"))
    service = yaml.safe_load((RAY / "rayservice.yaml").read_text(encoding="utf-8"))
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == serve
    (application,) = serve["applications"]
    module, _, name = application["import_path"].partition(":")
    assert (module, name) == ("server.replicas.application", "build")
    config, given = application["args"].pop("config"), application["args"]
    settings = read_settings(given, "serve.yaml")
    declared = read_deployment(yaml.safe_load((RAY / "deployment.yaml").read_text(encoding="utf-8")), config)
    assert declared.threads == settings.num_cpus
    assert declared.http.host == serve["http_options"]["host"]
    for group in (
        service["spec"]["rayClusterConfig"]["headGroupSpec"],
        *service["spec"]["rayClusterConfig"]["workerGroupSpecs"],
    ):
        pod = group["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] >= declared.http.drain_seconds + 10
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
        assert config.startswith(mounts["deployment"])
        assert str(declared.http.api_key_file).startswith(mounts["keys"])
