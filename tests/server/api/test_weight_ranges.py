"""What an operator allows holds for every request and every change, by whichever method and from wherever the weights come."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from server.access import KeyEntry, plain_key
from server.access.key_file import digest
from server.config import Deployment

PINNED = {"harmless": [1.0, 5.0], "helpful": [None, 2.0]}


def reward_sections(deployment: Deployment) -> list[dict[str, Any]]:
    """The rewards, harmless at 2 unless asked otherwise, and pairs among them."""
    helpful, harmless = (reward.model_dump() for reward in deployment.rewards)
    pair = {"name": "polite", "model": "p", "reference": "base", "default": 0.0}
    return [helpful, {**harmless, "default": 2.0}, pair]


@pytest.fixture(scope="module")
def pinned(scripted: Callable[..., Any], deployment: Deployment) -> Iterator[Any]:
    """A server with models for every method, where harmless weighs 1 to 5 and helpful at most 2, whatever anybody asks."""
    with scripted(
        weight_ranges=PINNED,
        base={"negative_prompt": True},
        rewards=reward_sections(deployment),
        presets={"plain": {"harmless": 1.0}},
        policies=[{"name": "safe", "model": "s"}],
        scorers=[
            {"name": "score", "model": "r", "trained_on": "responses"},
            {"name": "prefix", "model": "q", "trained_on": "prefixes"},
        ],
        conditioned={"name": "parm", "model": "c", "objectives": ["harmless", "short"]},
    ) as server:
        server.engine.free()
        yield server


def refused(response: Any, param: str) -> str:
    """The message of a refusal of weights."""
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, "weight_not_allowed")
    message: str = error["message"]
    return message


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model": "tiny:kind"},
        {"model": "tiny:plain"},
        {"preferences": {"harmless": 1}},
        {"preferences": {"harmless": 5, "helpful": -3}},
        {"preferences": {"harmless": 10, "helpful": 4}, "guidance": {"beta": 2}},
        {"preferences": {"harmless": 1}, "guidance": {"normalize": True}},
        {"preferences": {"harmless": 1, "safe": 1}, "guidance": {"method": "mod"}},
        {"preferences": {"harmless": 1}, "guidance": {"method": "dera", "lambda": 3}},
        {"preferences": {"harmless": 1}, "guidance": {"method": "cfg", "negative_prompt": "x"}},
        {"preferences": {"harmless": 1, "short": 1}, "guidance": {"method": "parm"}},
    ],
)
def test_what_is_allowed_is_answered(pinned: Any, fields: dict[str, Any]) -> None:
    response = pinned.chat(max_tokens=1, **fields)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"preferences": {}}, "preferences.harmless"),
        ({"preferences": {"harmless": 0.99}}, "preferences.harmless"),
        ({"preferences": {"harmless": -1}}, "preferences.harmless"),
        ({"preferences": {"harmless": 5.01}}, "preferences.harmless"),
        ({"preferences": {"harmless": 1, "helpful": 2.01}}, "preferences.helpful"),
        # Nor by β,
        ({"preferences": {"harmless": 1}, "guidance": {"beta": 1.01}}, "preferences.harmless"),
        ({"guidance": {"beta": 50}}, "preferences.harmless"),
        ({"model": "tiny:kind", "guidance": {"beta": 0.1}}, "preferences.harmless"),
        ({"preferences": {"harmless": 1, "helpful": 1}, "guidance": {"beta": 0.4}}, "preferences.helpful"),
        # nor by a bound on what guidance does,
        ({"guidance": {"max_kl": 0}}, "guidance.max_kl"),
        ({"guidance": {"max_kl": 1000}}, "guidance.max_kl"),
        # nor by a method whose defaults or names leave it out,
        ({"guidance": {"method": "mod"}}, "preferences.harmless"),
        (
            {"preferences": {"safe": 1}, "guidance": {"method": "mod", "divergence": "forward_kl"}},
            "preferences.harmless",
        ),
        ({"guidance": {"method": "dera"}}, "preferences.harmless"),
        ({"guidance": {"method": "cfg", "negative_prompt": "x"}}, "preferences.harmless"),
        ({"guidance": {"method": "proxy"}}, "guidance"),
        ({"preferences": {"polite": 1}, "guidance": {"method": "proxy"}}, "guidance"),
        ({"guidance": {"method": "args"}}, "guidance"),
        ({"guidance": {"method": "pargs"}}, "guidance"),
        ({"guidance": {"method": "parm"}}, "preferences.harmless"),
        # nor by a search that draws without it, or chooses against it.
        ({"guidance": {"method": "best_of_n", "n_candidates": 1}}, "preferences.harmless"),
        ({"guidance": {"method": "best_of_n", "scorer": "score"}}, "preferences.harmless"),
        ({"guidance": {"method": "darwin"}}, "preferences.harmless"),
        ({"guidance": {"method": "transfer_q", "w": 0}}, "preferences.harmless"),
        ({"guidance": {"method": "transfer_q", "guided": True, "w": -1}}, "preferences.harmless"),
        ({"guidance": {"method": "transfer_q", "guided": True, "w": 3}}, "preferences.harmless"),
    ],
)
def test_what_is_not_is_refused_by_name(pinned: Any, fields: dict[str, Any], param: str) -> None:
    message = refused(pinned.chat(max_tokens=1, **fields), param)
    assert (
        "'harmless' has to weigh from 1 to 5 here" in message or "'helpful' has to weigh at most 2" in message
    )
    assert pinned.serving.dispatcher.admitted == 0


@pytest.mark.parametrize(
    "fields",
    [
        '"preferences": {"harmless": NaN}',
        '"preferences": {"harmless": Infinity}',
        '"preferences": {"harmless": 1e999}',
        '"preferences": {"harmless": "2"}',
        '"preferences": {"harmless": true}',
        '"preferences": {"harmless": null}',
        '"preferences": {"harmless": 2, "harmless": 0}',
        '"preferences": {"harmless": 2}, "preferences": {}',
        '"preferences": {"Harmless": 2}',
        '"preferences": {"harmless": 2, "base": -1}',
        '"preferences": {"harmless": 2, "harmless#2": -2}',
        '"preferences": {"harmless": 2}, "guidance": {"beta": 0}',
        '"preferences": {"harmless": 2}, "guidance": {"beta": -1}',
        '"preferences": {"harmless": 2}, "guidance": {"beta": NaN}',
        '"preferences": {"harmless": 2}, "guidance": {"beta": 1e308}',
        '"preferences": {"harmless": 2}, "guidance": {"beta": 5e-324}',
        '"preferences": {"harmless": 2}, "guidance": {"beta": 1, "beta": 100}',
        '"preferences": {"harmless": 2}, "extra_body": {"preferences": {}}, "beta": 9',
        '"n": 3, "preferences": {}',
        '"stream": true, "preferences": {}',
    ],
)
def test_no_way_of_writing_a_weight_goes_around_the_range(pinned: Any, fields: str) -> None:
    body = f'{{"model": "tiny", "messages": [{{"role": "user", "content": "x"}}], {fields}}}'
    with pinned.client(**{"content-type": "application/json"}) as client:
        assert client.post("/v1/chat/completions", content=body).status_code == 400
    assert pinned.serving.dispatcher.admitted == 0


def test_a_scorer_that_has_to_weigh_has_something_to_choose_from(
    scripted: Callable[..., Any],
) -> None:
    scorers = [{"name": "score", "model": "r", "trained_on": "responses"}]
    with scripted(scorers=scorers, weight_ranges={"score": [1.0, None]}) as server:
        server.engine.free()
        for fields, status in (
            ({}, 200),
            ({"w": 0.5}, 400),
            ({"beta": 2}, 400),
            ({"w": 2, "beta": 2}, 200),
            ({"k": 2}, 200),
            ({"k": 1}, 400),
        ):
            answer = server.chat(max_tokens=1, guidance={"method": "args", **fields})
            assert answer.status_code == status, (fields, answer.text)
        for method in ("genarm", "best_of_n"):
            message = refused(server.chat(max_tokens=1, guidance={"method": method}), "guidance")
            assert "answers are drawn without it" in message


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses"])
def test_it_holds_on_every_route_that_generates(pinned: Any, path: str) -> None:
    body: dict[str, Any] = {"model": "tiny", "prompt" if "completions" in path else "input": "hello"}
    with pinned.client() as client:
        assert client.post(path, json=body).status_code == 200
        for fields in ({"preferences": {}}, {"guidance": {"beta": 9}}, {"stream": True, "preferences": {}}):
            refused(client.post(path, json=body | fields), "preferences.harmless")


def test_what_is_allowed_is_listed_and_sliders_show_no_more(pinned: Any) -> None:
    with pinned.client() as client:
        listed = client.get("/v1/preferences").json()
    helpful, harmless, polite = listed["data"]
    assert (helpful["allowed"], helpful["range"]) == ([None, 2.0], [0.0, 2.0])
    assert (harmless["allowed"], harmless["range"]) == ([1.0, 5.0], [1.0, 3.0])
    assert "allowed" not in polite
    assert listed["objectives"][0]["allowed"] == [1.0, 5.0]
    assert "allowed" not in listed["policies"][0]


def test_a_change_below_is_refused_and_has_no_effect(
    scripted: Callable[..., Any], deployment: Deployment
) -> None:
    sections: dict[str, Any] = {"rewards": reward_sections(deployment), "presets": {"plain": {"harmless": 1}}}
    with (
        scripted(weight_ranges=PINNED, **sections) as server,
        server.client() as client,
        server.open(client, max_tokens=5) as events,
    ):
        url = f"/v1/chat/completions/{next(events)['id']}"
        with server.client() as other:
            for body in (
                {"preferences": {}},
                {"preferences": {"harmless": 0.5}},
                {"preferences": {"harmless": 6}},
                {"guidance": {"beta": 2.5}},
                {"guidance": {"beta": 0.25}},
                {"preferences": {"harmless": 4}, "guidance": {"beta": 5}},
            ):
                refused(other.patch(url, json=body), "preferences.harmless")
            for body in (
                {"guidance": {"max_kl": 0}},
                {"guidance": {"method": "proxy"}},
                {"model": "tiny:plain"},
                {"preferences": {"harmless": 2}, "guidance": {"normalize": True}},
            ):
                assert other.patch(url, json=body).status_code == 400
            assert len(server.engine.mixes) == 1
            assert other.patch(url, json={"guidance": {"beta": 2}}).status_code == 200
            # What was allowed alone is not allowed together with the β that holds now.
            refused(other.patch(url, json={"preferences": {"harmless": 1}}), "preferences.harmless")
            changed = other.patch(url, json={"preferences": {"harmless": 1}, "guidance": {"beta": 1}})
            assert changed.status_code == 200
        assert [mix["harmless"] for mix in server.engine.mixes] == [2.0, 1.0, 1.0]
        server.engine.free()
        final = [chunk for chunk in events if chunk != "[DONE]"][-1]
        assert len(final["guidance"]["changes"]) == 2


@pytest.fixture(scope="module")
def keyed(scripted: Callable[..., Any]) -> Iterator[Any]:
    """A server with two keys: "bound" has a preset and ranges of its own, "free" has neither."""
    bound = KeyEntry("bound", digest(b"bound"), presets=frozenset({"kind"}), ranges={"harmless": (1.5, None)})
    with scripted(keys=[bound, plain_key("free", "free")]) as server:
        server.engine.free()
        yield server


def test_a_keys_ranges_hold_for_that_key(keyed: Any) -> None:
    body = keyed.body(max_tokens=1, preferences={"harmless": 1})
    with (
        keyed.client(authorization="Bearer free") as free,
        keyed.client(authorization="Bearer bound") as bound,
    ):
        assert free.post("/v1/chat/completions", json=body).status_code == 200
        message = refused(bound.post("/v1/chat/completions", json=body), "preferences.harmless")
        assert "at least 1.5" in message
        # The deployment's own default is no way around it,
        refused(bound.post("/v1/chat/completions", json=keyed.body(max_tokens=1)), "preferences.harmless")
        kept = keyed.body(max_tokens=1, model="tiny:kind")
        assert bound.post("/v1/chat/completions", json=kept).status_code == 200
        # and what weighs nothing is not concerned.
        asked = {"messages": body["messages"], "model": "tiny"}
        assert bound.post("/tokenize", json=asked).status_code == 200


def test_sliders_begin_where_a_key_may_be(keyed: Any) -> None:
    listed = {}
    for key in ("free", "bound"):
        with keyed.client(authorization=f"Bearer {key}") as client:
            listed[key] = client.get("/v1/preferences").json()["data"]
            weights = {reward["name"]: reward["default"] for reward in listed[key]}
            body = keyed.body(max_tokens=1, preferences=weights)
            assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert [(one["default"], one["range"]) for one in listed["free"]] == [
        (1.0, [0.0, 2.0]),
        (0.5, [-1.0, 3.0]),
    ]
    assert [(one["default"], one["range"]) for one in listed["bound"]] == [
        (1.0, [0.0, 2.0]),
        (1.5, [1.5, 3.0]),
    ]


def test_a_preset_that_is_not_the_keys_is_not_there(keyed: Any) -> None:
    with (
        keyed.client(authorization="Bearer free") as free,
        keyed.client(authorization="Bearer bound") as bound,
    ):
        for path, code in (("/v1/chat/completions", 404), ("/tokenize", 404)):
            body = {"model": "tiny:plain", "messages": keyed.body()["messages"]}
            missing = bound.post(path, json=body)
            assert missing.status_code == code
            assert missing.json()["error"]["code"] == "model_not_found"
            assert free.post(path, json=body).status_code == 200
        assert [model["id"] for model in bound.get("/v1/models").json()["data"]] == ["tiny", "tiny:kind"]
        assert bound.get("/v1/models/tiny:plain").status_code == 404
        assert set(bound.get("/v1/preferences").json()["presets"]) == {"kind"}
        assert set(free.get("/v1/preferences").json()["presets"]) == {"kind", "plain"}
