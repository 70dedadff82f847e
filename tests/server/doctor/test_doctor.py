"""The command: 0 where it could be served, else 1 and every reason."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from arm_models.errors import UserError
from server import cli
from server.config import Deployment, HttpSettings, read_deployment
from server.decoding import Roster
from server.doctor import as_text, diagnose
from server.doctor.machine import Device, Machine
from server.doctor.surroundings import check_surroundings

MODELS = ["base", "helpful", "harmless"]


@pytest.fixture
def doctor(
    declared: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """``doctor(**changes)``: exit code and JSON of the command on the tiny deployment, with other sections in it."""

    def run(**changes: Any) -> tuple[int, dict[str, Any]]:
        file = tmp_path / "deployment.yaml"
        file.write_text(yaml.safe_dump({**declared, "http": {"port": 0}, **changes}))
        code = cli.main(["doctor", "--json", "--config", str(file)])
        return code, json.loads(capsys.readouterr().out)

    return run


def problems(told: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["detail"] for one in told["checks"] if one["level"] == "problem"}


def test_a_deployment_that_can_be_served_has_no_problem(doctor: Any) -> None:
    code, told = doctor()
    assert (code, told["servable"], problems(told)) == (0, True, {})
    names = {one["name"] for one in told["checks"]}
    assert {
        "python",
        "torch",
        "transformers",
        "port",
        "API keys",
        *(f"model {name}" for name in MODELS),
    } <= names
    assert [one["name"] for one in told["models"]] == MODELS
    assert [one["architecture"] for one in told["models"]] == ["llama", "llama", "qwen3"]
    assert all(one["weights_bytes"]["float32"] == 4 * one["parameters"] for one in told["models"])
    (cpu,) = told["devices"]
    assert (cpu["name"], cpu["members"]) == ("cpu", MODELS)
    assert cpu["contexts"] == [{"tokens": 256, "fit": 32}]  # max_sequences at full length


def test_every_reason_is_told_at_once(doctor: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, told = doctor(
            base={"model": str(tmp_path / "nowhere")},
            rewards=[{"name": "far", "model": str(tmp_path), "device": "cuda:99"}],
            http={"port": taken.getsockname()[1], "api_key_file": str(tmp_path / "no-keys")},
            presets={},
        )
    assert (code, told["servable"]) == (1, False)
    found = problems(told)
    assert set(found) == {"model base", "model far", "port", "API keys"}
    assert "no folder" in found["model base"]
    assert "no-keys" in found["API keys"]


@pytest.mark.parametrize(
    ("http", "level", "said"),
    [
        ({}, "ok", "on this machine"),
        ({"host": "::1"}, "ok", "on this machine"),
        ({"host": "0.0.0.0"}, "problem", "give --api-key-file, or --allow-anonymous"),
        ({"host": "0.0.0.0", "allow_anonymous": True}, "warning", "everybody who reaches 0.0.0.0"),
    ],
)
def test_who_may_call_without_keys_is_told_as_the_start_would(
    http: dict[str, Any], level: str, said: str
) -> None:
    deployment = read_deployment({"model": "m", "base": {"model": "b"}, "http": {"port": 0, **http}}, "x")
    (told,) = [one for one in check_surroundings(deployment, Roster.of(deployment)) if one.name == "API keys"]
    assert told.level == level
    assert said in told.detail


def test_a_device_that_is_not_there_is_named(doctor: Any, declared: dict[str, Any]) -> None:
    code, told = doctor(base={**declared["base"], "device": "cuda:99"})
    assert code == 1
    assert "cuda:99" in problems(told)["model base"]


def test_a_hub_model_that_is_not_here_yet_is_no_problem(doctor: Any) -> None:
    code, told = doctor(base={"model": "nobody/has-this-model"})
    assert (code, problems(told)) == (0, {})
    (base,) = [one for one in told["checks"] if one["name"] == "model base"]
    assert base["level"] == "warning"
    assert "fetched" in base["detail"]


def test_a_deployment_that_cannot_be_read_is_a_reason_too(doctor: Any) -> None:
    code, told = doctor(modle="typo")
    assert (code, told["models"]) == (1, [])
    assert "modle: unknown key" in problems(told)["deployment"]


@pytest.mark.parametrize(("free", "level"), [(1000, "problem"), (100 << 20, "warning"), (8 << 30, "ok")])
def test_memory_that_is_too_small_is_told(deployment: Deployment, free: int, level: str) -> None:
    machine = Machine(2, 2, (Device("cpu", "a CPU", 1 << 34, free),))
    found = diagnose(lambda: deployment, lambda: machine)
    (memory,) = [check for check in found.checks if check.name == "memory of cpu"]
    assert memory.level == level


@pytest.mark.parametrize(("threads", "level"), [(2, "ok"), (3, "warning"), (None, "warning")])
def test_more_threads_than_cores_are_told(deployment: Deployment, threads: int | None, level: str) -> None:
    machine = Machine(2, 8, (Device("cpu", "a CPU", 1 << 34, 1 << 33),))
    found = diagnose(lambda: deployment.model_copy(update={"threads": threads}), lambda: machine)
    (told,) = [check for check in found.checks if check.name == "threads"]
    assert told.level == level


def split(deployment: Deployment, processes: int = 2, **base: Any) -> Callable[[], Deployment]:
    """A base in parts, ``helpful`` on every rank and ``harmless`` on the last."""
    helpful, harmless = deployment.rewards
    update = {
        "base": deployment.base.model_copy(update={"tensor_parallel": processes, **base}),
        "rewards": (
            helpful.model_copy(update={"rank": "all"}),
            harmless.model_copy(update={"rank": processes - 1}),
        ),
        "http": HttpSettings(port=0),
    }
    return lambda: deployment.model_copy(update=update)


def test_of_a_split_base_every_process_is_told(deployment: Deployment) -> None:
    machine = Machine(4, 4, (Device("cpu", "a CPU", 1 << 36, 1 << 35),))
    whole = diagnose(lambda: deployment, lambda: machine).capacities[0]
    found = diagnose(split(deployment), lambda: machine)
    assert not found.problems
    first, second = found.capacities
    assert (first.rank, first.members) == (0, ("base", "helpful"))
    assert (second.rank, second.members) == (1, ("base", "helpful", "harmless"))
    base, helpful, _ = found.members
    assert base.kv_bytes == base.facts.kv_values * 4 // 2
    assert first.weights == base.facts.values.held_as("float32") // 2 + helpful.facts.values.held_as(
        "float32"
    )
    assert first.weights < whole.weights
    assert found.checks[-1].name == "memory of cpu", "both are on one"
    told = as_text(found)
    assert "float32, cpu in 2 parts" in told
    assert "cpu, rank 1: weights" in told
    (threads,) = [check for check in found.checks if check.name == "threads"]
    assert threads.detail == "2 for a forward in each of 2 processes, on 4 cores"


@pytest.mark.parametrize(
    ("processes", "base", "graphics", "name", "said"),
    [
        (3, {}, 0, "model base", "4 attention heads cannot be divided among 3 processes"),
        (2, {}, 1, "base.tensor_parallel", "CUDA_VISIBLE_DEVICES="),
        (
            2,
            {"device": "cuda"},
            1,
            "base.tensor_parallel",
            "2 processes take a GPU each, and this machine has 1",
        ),
    ],
)
def test_a_base_that_cannot_be_split_so_is_a_problem(
    deployment: Deployment, processes: int, base: dict[str, Any], graphics: int, name: str, said: str
) -> None:
    gpus = (Device(f"cuda:{index}", "a GPU", 1 << 36, 1 << 36) for index in range(graphics))
    machine = Machine(4, 4, (Device("cpu", "a CPU", 1 << 36, 1 << 35), *gpus))
    found = {
        one.name: one.detail
        for one in diagnose(split(deployment, processes, **base), lambda: machine).problems
    }
    assert said in found[name]


def test_each_process_has_the_gpu_of_its_rank(deployment: Deployment) -> None:
    gpus = (Device(f"cuda:{index}", "a GPU", 1 << 36, 1 << 35) for index in range(2))
    machine = Machine(4, 4, (Device("cpu", "a CPU", 1 << 36, 1 << 35), *gpus))
    found = diagnose(split(deployment, device="cuda"), lambda: machine)
    on = {(one.rank, one.device.name): one.members for one in found.capacities}
    assert on[(0, "cuda:0")] == on[(1, "cuda:1")] == ("base",)
    assert on[(1, "cpu")] == ("helpful", "harmless")


def test_an_adapter_on_a_split_base_is_a_problem(
    deployment: Deployment, make_adapter: Callable[..., Path]
) -> None:
    machine = Machine(4, 4, (Device("cpu", "a CPU", 1 << 36, 1 << 35),))
    adapter = make_adapter(Path(deployment.base.model), "doctors-adapter", seed=3)
    kind = deployment.rewards[0].model_copy(update={"model": str(adapter), "rank": 1})
    base = deployment.base.model_copy(update={"tensor_parallel": 2})
    update = {"base": base, "rewards": (kind,), "presets": {}, "http": HttpSettings(port=0)}
    found = diagnose(lambda: deployment.model_copy(update=update), lambda: machine)
    (problem,) = found.problems
    assert "which is split over processes; adapters go on whole models: merge it" in problem.detail


def test_processes_that_do_not_fit_on_one_cpu_are_a_problem(deployment: Deployment) -> None:
    machine = Machine(4, 4, (Device("cpu", "a CPU", 1 << 36, 1 << 35),))
    one = max(each.weights for each in diagnose(split(deployment), lambda: machine).capacities)
    small = Machine(4, 4, (Device("cpu", "a CPU", 1 << 36, one + 1000),))
    found = {check.name: check.detail for check in diagnose(split(deployment), lambda: small).problems}
    assert found["memory of cpu"].startswith("2 processes take ")


def test_the_text_has_every_model_and_the_verdict_last(deployment: Deployment) -> None:
    machine = Machine(2, 2, (Device("cpu", "a CPU", 1 << 34, 1 << 33),))
    free = deployment.model_copy(update={"http": HttpSettings(port=0)})
    text = as_text(diagnose(lambda: free, lambda: machine))
    for name in MODELS:
        assert any(line.startswith(f"{name} ") and "float32, cpu" in line for line in text.splitlines())
    assert text.splitlines()[-1] == "it can be served"

    def broken() -> Deployment:
        raise UserError("x.yaml: base: is missing")

    text = as_text(diagnose(broken, lambda: machine))
    assert text.splitlines()[-2:] == ["it cannot be served:", "  deployment: x.yaml: base: is missing"]
