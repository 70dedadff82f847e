"""Rewards that other ranks hold are replaced and removed while answers are under way, and what comes is rank 0's."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.faults.streams import Stream
from tests.server.group.conftest import Group
from tests.server.group.test_group import GREEDY

PATH = "/v1/admin/rewards"
KEY = {"authorization": "Bearer root-key"}


@pytest.fixture(scope="module")
def keyed(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The deployment of two processes, for an administrator."""
    folder = tmp_path_factory.mktemp("keyed")
    key = {"name": "root", "hash": f"sha256:{sha256(b'root-key').hexdigest()}", "admin": True}
    (folder / "keys.yaml").write_text(yaml.safe_dump({"keys": [key]}))
    declared: dict[str, Any] = yaml.safe_load(config.read_text())
    declared["http"]["api_key_file"] = str(folder / "keys.yaml")
    (folder / "deployment.yaml").write_text(yaml.safe_dump(declared))
    return folder / "deployment.yaml"


def say(client: httpx.Client, **preferences: float) -> str:
    told = client.post("/v1/chat/completions", json=GREEDY | {"preferences": preferences})
    assert told.status_code == 200, told.text
    text: str = told.json()["choices"][0]["message"]["content"]
    return text


@pytest.mark.slow
def test_rewards_of_every_place_come_and_go_under_a_stream(
    start: Callable[..., Group], keyed: Path, make_checkpoint: Callable[..., Path], until: Any
) -> None:
    other = str(make_checkpoint("qwen3", "group-other", seed=7))
    group = start(declared=keyed).wait_until_ready()
    with httpx.Client(base_url=group.url, headers=KEY, timeout=60) as client:
        refused = client.post(PATH, json={"name": "kind", "model": other, "rank": 1})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "rank")
        assert client.post(PATH, json={"name": "kind", "model": other, "default": 0.0}).status_code == 201
        kind = say(client, kind=0.8)
        both = {"helpful": 0.7, "harmless": 0.7}
        stream = Stream(group.url, "root-key", max_tokens=120, preferences=both).began()

        for name in both:
            replaced = client.post(PATH, json={"name": name, "model": other})
            assert (replaced.status_code, replaced.json()["rank"]) == (200, 0), replaced.text
            assert say(client, **{name: 0.8}) == kind
        listed = client.get(PATH).json()
        assert listed["leaving"] == ["harmless", "helpful"]
        assert client.delete(f"{PATH}/helpful").status_code == 200
        assert stream.whole()[-1] == "[DONE]"
        until(lambda: client.get(PATH).json()["leaving"] == [])
        assert say(client, kind=0.8) == kind
        assert say(client, harmless=0.8) == kind
    group.signal(15)
    assert "Traceback" not in group.rest()
    assert group.process.returncode == 0
