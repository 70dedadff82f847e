"""A group of two processes over gloo: the tests' own is rank 0, a ``genarm serve`` rank 1."""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from server.config import Deployment, read_deployment
from server.engine import Engine, EngineConfig, Member
from server.engine.sharding.ranks import Ranks
from server.group.seat import Seat
from server.runtime import load_members

ROOT = Path(__file__).parents[4]


@dataclass
class Pair:
    """``members`` of rank 0, some of which rank 1 shares or holds; ``alone`` are the same in this process only.

    ``folders``: where the models are, by name.
    """

    ranks: Ranks
    members: list[Member]
    alone: list[Member]
    follower: "subprocess.Popen[str]"
    folders: dict[str, str]

    def engine(self, **limits: Any) -> Engine:
        """An engine on the group."""
        return Engine(self.members, _config(limits))

    def lone_engine(self, **limits: Any) -> Engine:
        """One that needs no other process."""
        return Engine(self.alone, _config(limits))


LIMITS: dict[str, Any] = {"kv_tokens": 512, "prefill_chunk": 16, "max_sequences": 6, "max_step_tokens": 96}


@contextlib.contextmanager
def ending(follower: "subprocess.Popen[str]") -> Iterator[None]:
    """Where this process fails, so does the other, and is heard."""
    try:
        yield
    except BaseException:
        follower.kill()
        print(follower.communicate(timeout=20)[0])
        raise


def _config(limits: dict[str, Any]) -> EngineConfig:
    return EngineConfig(**{**LIMITS, **limits})


def _free_port() -> int:
    """Of those that the kernel gives nobody who asks for any: it is still free when rank 0 listens on it."""
    while True:
        port = secrets.randbelow(10_000) + 20_000
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _read(declared: dict[str, Any]) -> Deployment:
    return read_deployment(declared, "test")


def _alone(declared: dict[str, Any]) -> Deployment:
    rewards = [{**reward, "rank": 0} for reward in declared["rewards"]]
    return _read({**declared, "base": {**declared["base"], "tensor_parallel": 1}, "rewards": rewards})


@pytest.fixture(scope="session")
def shared_models(make_checkpoint: Callable[..., Path]) -> dict[str, Any]:
    """A base that two processes share, and rewards of each place: of both, of rank 1, of rank 0."""
    return {
        "model": "tiny",
        "threads": 1,
        "base": {
            "model": str(make_checkpoint("llama", "split-base", seed=1, intermediate_size=65)),
            "tensor_parallel": 2,
            "negative_prompt": True,
        },
        "rewards": [
            {
                "name": "helpful",
                "model": str(make_checkpoint("qwen3", "split-helpful", seed=2)),
                "rank": "all",
            },
            {
                "name": "harmless",
                "model": str(make_checkpoint("gpt2", "split-harmless", seed=3)),
                "rank": 1,
            },
            {"name": "kind", "model": str(make_checkpoint("llama", "split-kind", seed=4))},
        ],
    }


MakePair = Callable[..., Pair]


@pytest.fixture(scope="module")
def make_pair(shared_models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakePair]:
    """``make_pair(deterministic=True, …)``: a group of two with these limits, one at a time in a module."""
    made: list[Pair] = []

    def make(**limits: Any) -> Pair:
        declared = {**shared_models, "engine": {**LIMITS, **limits}}
        config = tmp_path_factory.mktemp("pair") / "deployment.yaml"
        config.write_text(json.dumps(declared))
        port = _free_port()
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        follower = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.server.engine.sharding.short",
                "serve",
                "--config",
                str(config),
            ],
            env={**os.environ, **place, "RANK": "1", "LOCAL_RANK": "1", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        with pytest.MonkeyPatch.context() as patch, ending(follower):
            for name, value in {**place, "RANK": "0", "LOCAL_RANK": "0"}.items():
                patch.setenv(name, value)
            seat = Seat.of(2)
            assert seat is not None
            ranks = seat.join("cpu", lambda lifeline: lifeline.watch(lambda *_: None))
            _, members = load_members(_read(declared), lambda _: None, ranks)
        _, alone = load_members(_alone(declared), lambda _: None)
        folders = {one.get("name", "base"): one["model"] for one in (declared["base"], *declared["rewards"])}
        made.append(Pair(ranks, members, alone, follower, folders))
        return made[-1]

    yield make
    for pair in made:
        pair.ranks.lifeline.dismiss()
        printed, _ = pair.follower.communicate(timeout=20)
        pair.ranks.lifeline.close()
        assert pair.follower.returncode == 0, printed
        assert "Traceback" not in printed
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair(make_pair: MakePair) -> Pair:
    """A group of two on the usual limits."""
    return make_pair()
