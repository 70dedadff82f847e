"""``genarm demo build``: one command from nothing to a family, that goes on where it was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from arm_models.demo import command
from arm_models.demo.build import Build
from arm_models.demo.deployment import demo_deployment
from arm_models.errors import UserError
from arm_models.loading import ModelSource, load_family

NAMES = ("base", "helpful", "harmless", "concise")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for name in NAMES:
        tensors |= {
            f"{name}/{key}": value for key, value in load_file(folder / name / "model.safetensors").items()
        }
    return tensors


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "models"
    Build(out, seed=0, quick=True).run(lambda _: None)
    return out


def test_a_build_leaves_a_family_that_loads_with_cards_and_nothing_else(built: Path) -> None:
    demo = demo_deployment(built)
    assert not demo.missing
    load_family(
        ModelSource("base", str(demo.base)), [ModelSource(one.name, str(one.path)) for one in demo.rewards]
    )
    assert {path.name for path in built.iterdir()} == {*NAMES, "build.json"}
    for name in NAMES:
        card = (built / name / "README.md").read_text()
        for said in ("Data", "Settings", "Held out", "| words |", "genarm demo build --seed 0"):
            assert said in card, (name, said)
    arm = json.loads((built / "helpful" / "arm.json").read_text())
    assert arm["reward_name"] == "helpful"
    assert arm["beta_r"] == 0.05


def test_a_complete_build_is_left_as_it_is(built: Path) -> None:
    before = (built / "base" / "model.safetensors").stat().st_mtime_ns
    said: list[str] = []
    Build(built, seed=0, quick=True).run(said.append)
    assert said == [f"{built} is complete: nothing to do"]
    assert (built / "base" / "model.safetensors").stat().st_mtime_ns == before


def test_a_folder_of_another_seed_is_refused(built: Path) -> None:
    with pytest.raises(UserError, match="other settings"):
        Build(built, seed=1, quick=True).run(lambda _: None)


@pytest.mark.slow
def test_a_killed_build_goes_on_and_ends_with_the_same_weights(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    arguments = [sys.executable, "-m", "server.cli", "demo", "build", "--quick", "--out", str(out)]
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not (out / ".build" / "base.state.pt").is_file() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "base").exists()
    said: list[str] = []
    Build(out, seed=0, quick=True).run(said.append)
    assert "tokenizer: done before" in said
    resumed, whole = weights(out), weights(built)
    assert resumed.keys() == whole.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0.05, atol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--seed", "-1"], "--seed must not be negative"), (["--threads", "0"], "--threads must be at least 1")],
)
def test_misuse_is_one_clear_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        command.run(parsed(["build", "--quick", "--out", str(tmp_path / "x"), *arguments]))


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="is a file"):
        command.run(parsed(["build", "--quick", "--out", str(tmp_path / "x")]))


def parsed(arguments: list[str]) -> Namespace:
    parser = ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(arguments)
