"""Rewards come and go while the server answers: checked first, live between two tokens, and never two versions in one answer."""

import contextlib
import gc
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml

from arm_models.errors import UserError
from server.access import key_ring
from server.api.serving import Phase
from server.config import Deployment, read_deployment
from server.engine import Engine
from server.joining import Joined, NoRoom
from server.runtime import load_runtime

PATH = "/v1/admin/rewards"
ROOT = {"authorization": "Bearer root-key"}
USER = {"authorization": "Bearer user-key"}


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of two keys, of which the first is an administrator's."""
    declared = [
        {"name": name, "hash": f"sha256:{sha256(key.encode()).hexdigest()}", "admin": name == "root"}
        for name, key in (("root", "root-key"), ("user", "user-key"))
    ]
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    path.write_text(yaml.safe_dump({"keys": declared}))
    return str(path)


def with_keys(declared: dict[str, Any], key_file: str) -> Deployment:
    """What is declared, for the holders of these keys."""
    return read_deployment({**declared, "http": {"api_key_file": key_file}}, "keyed")


@pytest.fixture
def admin(scripted: Callable[..., Any], key_file: str) -> Callable[..., Any]:
    """``scripted`` with keys."""

    @contextlib.contextmanager
    def make(**sections: Any) -> Iterator[tuple[Any, httpx.Client]]:
        http = {"api_key_file": key_file}
        with scripted(http=http, **sections) as server, server.client(**ROOT) as client:
            yield server, client

    return make


def test_without_keys_there_is_no_such_route(scripted: Callable[..., Any]) -> None:
    with scripted() as server, server.client() as client:
        for method, path in (("GET", PATH), ("POST", PATH), ("DELETE", f"{PATH}/helpful")):
            answer = client.request(method, path)
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "unknown_url"
            missing = client.request(method, "/v1/nothing").json()["error"]["message"]
            assert answer.json()["error"]["message"] == missing.replace("/v1/nothing", path)


def test_only_an_administrators_key_may(admin: Callable[..., Any]) -> None:
    with admin() as (server, client):
        for method, path in (("GET", PATH), ("POST", PATH), ("DELETE", f"{PATH}/helpful")):
            answer = client.request(method, path, headers=USER, json={"name": "helpful", "model": "m"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
        assert client.get(PATH).status_code == 200
        assert server.engine.members == []


def test_a_new_reward_is_offered_at_once_and_a_removed_one_no_longer(admin: Callable[..., Any]) -> None:
    with admin() as (server, client):
        before = client.get(PATH).json()
        made = client.post(
            PATH, json={"name": "polite", "model": "org/polite", "range": [-1, 1], "default": 0}
        )
        assert made.status_code == 201, made.text
        told = made.json()
        assert told | {"system_fingerprint": ""} == {
            "object": "reward",
            "name": "polite",
            "description": "",
            "default": 0.0,
            "range": [-1.0, 1.0],
            "model": "org/polite",
            "reference": None,
            "device": "cpu",
            "dtype": "auto",
            "chat_template": None,
            "rank": 0,
            "member": "polite#2",
            "system_fingerprint": "",
        }
        assert told["system_fingerprint"] != before["system_fingerprint"]
        offered = client.get("/v1/preferences").json()
        assert [one["name"] for one in offered["data"]] == ["helpful", "harmless", "polite"]
        assert "polite" in offered["methods"][0]["preferences"]
        server.engine.free()
        body = server.body(preferences={"polite": 0.5}, max_tokens=1)
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        assert server.engine.mixes[-1] == {"base": 1.0, "helpful": 0.0, "harmless": 0.0, "polite#2": 0.5}

        gone = client.delete(f"{PATH}/polite")
        assert gone.json() == {
            "object": "reward.deleted",
            "name": "polite",
            "deleted": True,
            "system_fingerprint": before["system_fingerprint"],
        }
        assert client.get(PATH).json() == before
        refused = client.post("/v1/chat/completions", json=body)
        assert refused.json()["error"]["param"] == "preferences.polite"
        assert server.engine.members == ["polite#2", "-polite#2"]


def test_what_replaces_a_reward_keeps_what_is_not_sent(admin: Callable[..., Any]) -> None:
    with admin() as (_, client):
        first = client.post(PATH, json={"name": "harmless", "model": "new", "reference": "old"})
        assert first.status_code == 200, first.text
        told = first.json()
        assert (told["default"], told["range"], told["member"]) == (0.5, [-1.0, 3.0], "harmless#2")
        second = client.post(PATH, json={"name": "harmless", "model": "newer", "default": 0.25}).json()
        assert (second["reference"], second["default"], second["range"]) == ("old", 0.25, [-1.0, 3.0])
        third = client.post(PATH, json={"name": "harmless", "model": "newer", "reference": None}).json()
        assert (third["reference"], third["default"]) == (None, 0.25)
        listed = client.get(PATH).json()
        assert [one["member"] for one in listed["data"]] == ["helpful", "harmless#4"]
        assert listed["leaving"] == []


def test_a_request_under_way_keeps_its_rewards_until_it_ends(admin: Callable[..., Any], until: Any) -> None:
    with admin() as (server, client), server.open(client, max_tokens=6) as events:
        url = f"/v1/chat/completions/{next(events)['id']}"
        with server.client(**ROOT) as other:
            assert other.post(PATH, json={"name": "helpful", "model": "new"}).status_code == 200
            assert other.post(PATH, json={"name": "polite", "model": "new"}).status_code == 201
            assert other.get(PATH).json()["leaving"] == ["helpful"]
            refused = other.patch(url, json={"preferences": {"polite": 1}}).json()["error"]
            assert (refused["param"], "known: helpful, harmless)" in refused["message"]) == (
                "preferences.polite",
                True,
            )
            assert other.patch(url, json={"preferences": {"helpful": 2}}).status_code == 200
            assert server.engine.mixes[-1] == {"base": 1.0, "helpful": 2.0, "harmless": 0.0}
            server.engine.free()
            list(events)
            until(lambda: other.get(PATH).json()["leaving"] == [])
        assert server.engine.members == ["helpful#2", "polite#3", "-helpful"]


def test_a_version_that_nobody_reads_does_not_wait_for_an_older_one(
    admin: Callable[..., Any], until: Any
) -> None:
    with admin() as (server, client), server.open(client, max_tokens=6) as events:
        next(events)
        with server.client(**ROOT) as other:
            for _ in range(3):
                assert other.post(PATH, json={"name": "helpful", "model": "new"}).status_code == 200
            assert other.get(PATH).json()["leaving"] == ["helpful"]
            expected = ["helpful#2", "helpful#3", "-helpful#2", "helpful#4", "-helpful#3"]
            until(lambda: server.engine.members == expected)
            server.engine.free()
            list(events)


def test_a_request_that_never_gets_to_the_engine_holds_nothing(admin: Callable[..., Any]) -> None:
    with admin() as (server, client):
        long = server.body(messages=[{"role": "user", "content": "x " * 4000}])
        assert client.post("/v1/chat/completions", json=long).status_code == 400
        assert client.post(PATH, json={"name": "helpful", "model": "new"}).status_code == 200
        assert client.get(PATH).json()["leaving"] == []


def test_one_change_at_a_time(admin: Callable[..., Any]) -> None:
    loading, go_on = threading.Event(), threading.Event()

    def slow(joined: Any, *arguments: Any) -> Any:
        loading.set()
        assert go_on.wait(20)
        return joined(*arguments)

    with admin(join=slow) as (server, client), ThreadPoolExecutor() as pool:
        first = pool.submit(client.post, PATH, json={"name": "polite", "model": "new"})
        assert loading.wait(20)
        with server.client(**ROOT) as other:
            for answer in (
                other.post(PATH, json={"name": "helpful", "model": "new"}),
                other.delete(f"{PATH}/helpful"),
            ):
                assert (answer.status_code, answer.json()["error"]["code"]) == (409, "busy")
            assert other.get("/health").status_code == 200
            assert [one["name"] for one in other.get(PATH).json()["data"]] == ["helpful", "harmless"]
            go_on.set()
            assert first.result().status_code == 201
            assert other.delete(f"{PATH}/helpful").status_code == 200


def test_a_server_that_drains_meanwhile_takes_no_new_reward(admin: Callable[..., Any]) -> None:
    def late(joined: Any, *arguments: Any) -> Any:
        running[0].serving.phase = Phase.DRAINING
        return joined(*arguments)

    running: list[Any] = []
    with admin(join=late) as (server, client):
        running.append(server)
        answer = client.post(PATH, json={"name": "helpful", "model": "new"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
        assert server.engine.members == []


class Cyclic:
    """Holds itself, as some models do."""

    def __init__(self) -> None:
        self.own = self


def test_a_removed_model_that_holds_itself_is_looked_for(admin: Callable[..., Any], until: Any) -> None:
    models: list[weakref.ref[Cyclic]] = []

    def cyclic(joined: Any, *arguments: Any) -> Joined:
        made: Joined = joined(*arguments)
        models.append(weakref.ref(Cyclic()))
        return replace(
            made, parts={name: replace(part, model=models[-1]) for name, part in made.parts.items()}
        )

    with admin(join=cyclic) as (_, client):
        gc.disable()
        try:
            assert client.post(PATH, json={"name": "polite", "model": "new"}).status_code == 201
            assert models[0]() is not None
            assert client.delete(f"{PATH}/polite").status_code == 200
            until(lambda: models[0]() is None)
        finally:
            gc.enable()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": "polite"}, "model"),
    ({"model": "m"}, "name"),
    ({"name": "a b", "model": "m"}, "name"),
    ({"name": "polite", "model": ""}, "model"),
    ({"name": "polite", "model": "m", "weight": 1}, "weight"),
    ({"name": "polite", "model": "m", "default": 1000}, "default"),
    ({"name": "polite", "model": "m", "range": [1, 1]}, "range"),
    ({"name": "polite", "model": "m", "device": "tpu"}, "device"),
    ({"name": "polite", "model": "m", "dtype": "int4"}, "dtype"),
    ({"name": "base.negative", "model": "m"}, "name"),
]


def test_a_bad_declaration_names_its_field(admin: Callable[..., Any]) -> None:
    with admin() as (server, client):
        for fields, param in BAD:
            answer = client.post(PATH, json=fields)
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["param"] == param, fields
        assert server.engine.members == []


@pytest.mark.parametrize(
    ("refusal", "given", "status", "code", "param", "told"),
    [
        (
            UserError("helpful#2: /srv/models/arm: 2 tensors are missing, the first a.b"),
            {"model": "/srv/models/arm"},
            *(400, "model_refused", "model"),
            "helpful: /srv/models/arm: 2 tensors are missing, the first a.b",
        ),
        (
            UserError("helpful#2: /home/x/secret/arm: its backbone /home/x/secret/llm is an adapter itself"),
            {"model": "arm"},
            *(400, "model_refused", "model"),
            "helpful: arm: its backbone llm is an adapter itself",
        ),
        (
            UserError("helpful.reference#2: no folder 'old' (and it is no hub id, which reads owner/model)"),
            {"model": "arm", "reference": "old"},
            *(400, "model_refused", "reference"),
            "helpful.reference: no folder 'old' (and it is no hub id, which reads owner/model)",
        ),
        (
            UserError("helpful#2: device 'cuda:7' is not there; this machine has cpu"),
            {"model": "arm", "device": "cuda:7"},
            *(400, "model_refused", "device"),
            "helpful: device 'cuda:7' is not there; this machine has cpu",
        ),
        (
            NoRoom("helpful#2: its cache needs 9 bytes on cpu, and 3 are left"),
            {"model": "arm"},
            *(409, "no_room", None),
            "helpful: its cache needs 9 bytes on cpu, and 3 are left",
        ),
    ],
)
def test_a_model_that_cannot_be_used_changes_nothing_and_is_told_without_folders(
    admin: Callable[..., Any],
    refusal: UserError,
    given: dict[str, Any],
    status: int,
    code: str,
    param: str | None,
    told: str,
) -> None:
    def refuse(*_: Any) -> Any:
        raise refusal

    with admin(join=refuse) as (server, client):
        before = client.get(PATH).json()
        answer = client.post(PATH, json={"name": "helpful", **given})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
        assert error["message"] == told
        assert client.get(PATH).json() == before
        assert server.engine.members == []


def test_a_reward_that_is_named_elsewhere_cannot_be_removed(admin: Callable[..., Any]) -> None:
    with admin() as (_, client):
        answer = client.delete(f"{PATH}/harmless")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "in_use")
        assert "presets.kind" in answer.json()["error"]["message"]
        unknown = client.delete(f"{PATH}/nobody")
        assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "name")


@pytest.fixture
def bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], str]:
    """Writes a file of an administrator's key and a user's with these ranges; it is looked at for every request."""
    monkeypatch.setattr(key_ring, "LOOK_SECONDS", 0.0)
    path = tmp_path / "keys.yaml"

    def write(ranges: dict[str, Any]) -> str:
        entries = [
            {"name": name, "hash": f"sha256:{sha256(key.encode()).hexdigest()}", **fields}
            for name, key, fields in (
                ("root", "root-key", {"admin": True}),
                ("user", "user-key", {"ranges": ranges}),
            )
        ]
        path.write_text(yaml.safe_dump({"keys": entries}))
        return str(path)

    return write


def test_a_reward_that_a_key_is_bound_by_cannot_be_removed(
    scripted: Callable[..., Any], bounded: Callable[..., str]
) -> None:
    http = {"api_key_file": bounded({"helpful": [0.0, 0.5]})}
    with scripted(http=http) as server, server.client(**ROOT) as root, server.client(**USER) as user:
        server.engine.free()
        refused = root.delete(f"{PATH}/helpful")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "in_use")
        assert "the ranges of the key 'user'" in refused.json()["error"]["message"]
        # What replaces it is bound as it was.
        assert root.post(PATH, json={"name": "helpful", "model": "new"}).status_code == 200
        over = server.body(max_tokens=1, preferences={"helpful": 0.75})
        assert user.post("/v1/chat/completions", json=over).json()["error"]["param"] == "preferences.helpful"
        bounded({})
        assert user.post("/v1/chat/completions", json=over).status_code == 200
        assert root.delete(f"{PATH}/helpful").status_code == 200


def test_a_key_may_be_bound_by_a_reward_before_there_is_one(
    scripted: Callable[..., Any], bounded: Callable[..., str]
) -> None:
    with (
        scripted(http={"api_key_file": bounded({})}) as server,
        server.client(**ROOT) as root,
        server.client(**USER) as user,
    ):
        server.engine.free()
        bounded({"polite": [1.0, None]})
        body = server.body(max_tokens=1)
        assert user.post("/v1/chat/completions", json=body).status_code == 200, "the keys stay as they were"
        new = {"name": "polite", "model": "new", "default": 0.0}
        assert root.post(PATH, json=new).status_code == 201
        refused = user.post("/v1/chat/completions", json=body)
        assert refused.json()["error"]["code"] == "weight_not_allowed"
        assert "'polite' has to weigh at least 1" in refused.json()["error"]["message"]
        body["preferences"] = {"polite": 1.0}
        assert user.post("/v1/chat/completions", json=body).status_code == 200


def test_what_everybody_keeps_to_holds_for_what_replaces_a_reward(admin: Callable[..., Any]) -> None:
    with admin(weight_ranges={"harmless": [0.25, None]}, presets={"plain": {"harmless": 1}}) as (
        server,
        client,
    ):
        server.engine.free()
        for fields in ({"default": 0.0}, {"default": -1}):
            refused = client.post(PATH, json={"name": "harmless", "model": "new", **fields})
            assert refused.status_code == 400
            error = refused.json()["error"]
            assert (error["param"], "weight_ranges.harmless" in error["message"]) == ("default", True)
        assert client.post(PATH, json={"name": "harmless", "model": "new"}).status_code == 200
        below = server.body(max_tokens=1, preferences={"helpful": 1.0})
        error = client.post("/v1/chat/completions", json=below).json()["error"]
        assert (error["param"], error["code"]) == ("preferences.harmless", "weight_not_allowed")
        gone = client.delete(f"{PATH}/harmless")
        assert gone.status_code == 409
        assert "weight_ranges" in gone.json()["error"]["message"]


def test_reports_call_a_reward_by_its_name(admin: Callable[..., Any], monkeypatch: Any) -> None:
    from server.engine import TokenReport

    with admin() as (server, client):
        assert client.post(PATH, json={"name": "helpful", "model": "new"}).status_code == 200
        told = server.engine._next

        def versioned(sequence_id: str) -> Any:
            output = told(sequence_id)
            object.__setattr__(output, "report", TokenReport(0.25, -2.0, 9, 9, {"helpful#2": -1.0}))
            return output

        monkeypatch.setattr(server.engine, "_next", versioned)
        server.engine.free()
        body = server.body(max_tokens=2, guidance={"report": "tokens"}, ignore_eos=True)
        answer = client.post("/v1/chat/completions", json=body).json()
        assert answer["guidance"]["rewards"] == {"helpful": -2.0}
        assert [one["rewards"] for one in answer["choices"][0]["guidance"]["tokens"]] == [
            {"helpful": -1.0}
        ] * 2


class Gate:
    """Lets engines take so many steps; between them they take commands as ever."""

    def __init__(self) -> None:
        self.steps = 10**9

    def step(self, engine: Engine, real: Callable[[Engine], Any]) -> Any:
        if self.steps <= 0:
            time.sleep(0.002)
            return []
        self.steps -= 1
        return real(engine)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    made, real = Gate(), Engine.step
    monkeypatch.setattr(Engine, "step", lambda engine: made.step(engine, real))
    return made


def answered(server: Any, **fields: Any) -> dict[str, Any]:
    """Greedy token ids of an answer under both rewards."""
    body = server.body(temperature=0, max_tokens=40, ignore_eos=True, return_token_ids=True, **fields)
    with server.client(**ROOT) as client:
        answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def ids(answer: dict[str, Any]) -> list[int]:
    said: list[int] = answer["choices"][0]["token_ids"]
    return said


def test_a_swap_under_a_stream_mixes_no_versions(
    serve: Callable[..., Any],
    declared: dict[str, Any],
    key_file: str,
    make_checkpoint: Callable[..., Path],
    gate: Gate,
    until: Any,
) -> None:
    """Of the real engine: the answer under way is the old one to its end, the next is a fresh server's."""
    new = str(make_checkpoint("llama", "admin-helpful", seed=12))
    weights: dict[str, Any] = {"preferences": {"helpful": 1.5, "harmless": 0.5}}
    swapped = {**declared, "rewards": [{**declared["rewards"][0], "model": new}, declared["rewards"][1]]}
    with serve(read_deployment(swapped, "fresh"), load_runtime) as fresh:
        expected = answered(fresh, **weights)
    with serve(with_keys(declared, key_file), load_runtime) as server:
        old = answered(server, **weights)
        assert ids(old) != ids(expected)
        fields = {"temperature": 0, "max_tokens": 40, "ignore_eos": True, "return_token_ids": True, **weights}
        gate.steps = 15
        with server.client(**ROOT) as client, server.open(client, **fields) as events:
            tokens = _tokens(events)
            said = list(islice(tokens, 3))
            with server.client(**ROOT) as other:
                made = other.post(PATH, json={"name": "helpful", "model": new})
                assert made.status_code == 200, made.text
                assert other.get(PATH).json()["leaving"] == ["helpful"]
                until(lambda: set(_members(server)) == {"base", "helpful", "harmless", "helpful#2"}, 60)
                gate.steps = 10**9
                assert ids(answered(server, **weights)) == ids(expected)
            assert said + list(tokens) == ids(old)
        until(lambda: set(_members(server)) == {"base", "harmless", "helpful#2"}, 60)
        again = answered(server, **weights)
        assert ids(again) == ids(expected)
        assert again["system_fingerprint"] == expected["system_fingerprint"] != old["system_fingerprint"]


def test_a_pair_joins_and_a_torn_or_foreign_model_does_not(
    serve: Callable[..., Any],
    declared: dict[str, Any],
    key_file: str,
    make_checkpoint: Callable[..., Path],
    make_tokenizer: Callable[..., Any],
    tmp_path: Path,
    until: Any,
) -> None:
    tuned = str(make_checkpoint("llama", "admin-tuned", seed=13))
    foreign = make_checkpoint("llama", "admin-foreign", seed=14, tokenizer=make_tokenizer(size=280))
    torn = tmp_path / "torn"
    shutil.copytree(tuned, torn)
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:-8])
    weights = {"preferences": {"polite": 1.0}}
    pair = {"name": "polite", "model": tuned, "reference": declared["rewards"][0]["model"]}
    with serve(with_keys(declared, key_file), load_runtime) as server:
        with server.client(**ROOT) as client:
            for model in (str(foreign), str(torn), str(tmp_path / "nothing")):
                refused = client.post(PATH, json={"name": "polite", "model": model})
                error = refused.json()["error"]
                assert (refused.status_code, error["param"], error["code"]) == (400, "model", "model_refused")
                assert error["message"].startswith("polite: ")
            assert client.post(PATH, json=pair).status_code == 201
            told = answered(server, **weights, guidance={"report": "summary"})
            assert set(told["guidance"]["rewards"]) == {"polite", "polite.reference"}
            assert client.delete(f"{PATH}/polite").status_code == 200
        until(lambda: set(_members(server)) == {"base", "helpful", "harmless"}, 60)


@pytest.mark.slow
def test_fifty_swaps_under_load_drop_no_stream_and_leave_nothing(
    serve: Callable[..., Any],
    declared: dict[str, Any],
    key_file: str,
    make_checkpoint: Callable[..., Path],
    until: Any,
) -> None:
    """Streams run all the time; each is one version's answer from its first token to its last."""
    folders = [declared["rewards"][0]["model"], str(make_checkpoint("llama", "admin-other", seed=15))]
    weights: dict[str, Any] = {"preferences": {"helpful": 1.5}}
    versions: set[tuple[int, ...]] = set()

    def swap(server: Any, client: httpx.Client, count: int) -> int:
        """So many swaps under three streams; the tensors that are there once they have ended."""
        over = threading.Event()
        with ThreadPoolExecutor(3) as pool:
            streams = [pool.submit(_stream_until, server, over, weights, versions) for _ in range(3)]
            for number in range(count):
                made = client.post(PATH, json={"name": "helpful", "model": folders[number % 2]})
                assert made.status_code == 200, made.text
            over.set()
            assert min(stream.result() for stream in streams) > 0
        until(lambda: client.get(PATH).json()["leaving"] == [] and len(_members(server)) == 3, 60)
        gc.collect()
        return sum(type(one) in (torch.Tensor, torch.nn.Parameter) for one in gc.get_objects())

    with (
        serve(with_keys(declared, key_file), load_runtime) as server,
        server.client(**ROOT) as client,
    ):
        for folder in folders:
            client.post(PATH, json={"name": "helpful", "model": folder})
            versions.add(tuple(ids(answered(server, **weights))))
        assert len(versions) == 2
        first = swap(server, client, 2)
        assert swap(server, client, 50) <= first


def _stream_until(
    server: Any, over: threading.Event, weights: dict[str, Any], versions: set[tuple[int, ...]]
) -> int:
    count = 0
    fields = {"temperature": 0, "max_tokens": 40, "ignore_eos": True, "return_token_ids": True, **weights}
    while not over.is_set():
        with server.client(**ROOT) as client, server.open(client, **fields) as events:
            assert tuple(_tokens(events)) in versions
        count += 1
    return count


def _tokens(events: Iterator[Any]) -> Iterator[int]:
    """The token ids of a stream; it must end with [DONE]."""
    for event in events:
        if event == "[DONE]":
            return
        yield from event["choices"][0].get("token_ids", ())
    raise AssertionError("the stream ended without [DONE]")


def _members(server: Any) -> list[str]:
    """Those that the engine has."""
    return list(server.serving.dispatcher.stats.cache_usage)
