"""A deployment is read once and checked whole; whatever is wrong is one line that names the key."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from arm_models.errors import UserError
from server.config import Deployment, read_config_file, read_deployment
from server.engine import EngineConfig

MINIMAL: dict[str, Any] = {"model": "m", "base": {"model": "b"}}


def complaint(**changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        read_deployment({**MINIMAL, **changes}, "d.yaml")
    message = str(caught.value)
    assert message.startswith("d.yaml: ")
    assert "\n" not in message
    return message


def reward(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "kind", "model": "k", **fields}]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"bsae": 1}, "bsae: unknown key"),
        ({"base": {"model": "b", "dtpye": "auto"}}, "base.dtpye: unknown key"),
        ({"base": {}}, "base.model: is missing"),
        ({"rewards": reward(defualt=1)}, "rewards[0].defualt: unknown key"),
        ({"rewards": reward(default=float("nan"))}, "rewards[0].default"),
        ({"rewards": reward(default=True)}, "rewards[0].default"),
        ({"rewards": reward(default=101)}, "rewards[0].default"),
        ({"rewards": reward(range=[2, 1])}, "rewards[0]: range must be"),
        ({"rewards": reward(name="base")}, "taken by the base model"),
        ({"rewards": reward(name="a b")}, "rewards[0].name"),
        ({"rewards": reward() + reward()}, "'kind' is used twice"),
        ({"rewards": reward(), "presets": {"p": {"knid": 1}}}, "presets.p.knid"),
        ({"presets": {"a:b": {}}}, "presets.a:b"),
        ({"base": {"model": "b", "device": "tpu"}}, "base.device"),
        ({"base": {"model": "b", "dtype": "int4"}}, "base.dtype"),
        ({"base": {"model": "b", "tensor_parallel": 0}}, "base.tensor_parallel"),
        ({"base": {"model": "b", "tensor_parallel": 65}}, "base.tensor_parallel"),
        ({"base": {"model": "b", "tensor_parallel": 2, "hang_seconds": 0.0}}, "base.hang_seconds"),
        ({"base": {"model": "b", "hang_seconds": 5.0}}, "base: hang_seconds is for a base that is split"),
        (
            {"base": {"model": "b", "tensor_parallel": 2, "dtype": "int8"}},
            "base: tensor_parallel: a base in int8",
        ),
        (
            {"base": {"model": "b", "tensor_parallel": 2, "device": "cuda:1"}},
            "base: tensor_parallel: every process",
        ),
        ({"base": {"model": "b", "rank": 1}}, "base: rank is for other models"),
        ({"rewards": reward(rank=-1)}, "rewards[0].rank: must be 0, 1, 2"),
        ({"rewards": reward(rank=True)}, "rewards[0].rank: must be 0, 1, 2"),
        (
            {"rewards": reward(rank=1)},
            "rewards: the rank of 'kind' is 1, but base.tensor_parallel is 1 (known: 0)",
        ),
        ({"rewards": reward(rank="all")}, "the rank of 'kind' is all"),
        (
            {"base": {"model": "b", "tensor_parallel": 2}, "rewards": reward(rank=2)},
            "the rank of 'kind' is 2, but base.tensor_parallel is 2 (known: 0 to 1, or all)",
        ),
        ({"engine": {"max_sequences": 0}}, "engine.max_sequences"),
        ({"engine": {"speculation": "on"}}, "engine.speculation"),
        ({"engine": {"max_draft": 17}}, "engine.max_draft"),
        ({"http": {"port": 70000}}, "http.port"),
        ({"http": {"port": "80"}}, "http.port"),
        ({"http": {"allowed_hosts": ["http://x"]}}, "http.allowed_hosts[0]"),
        ({"http": {"cors_origins": ["*"]}}, "http.cors_origins[0]"),
        ({"http": {"cors_origins": ["https://x.org/"]}}, "http.cors_origins[0]"),
        ({"rewards": reward(), "weight_ranges": {"knid": [0, 1]}}, "weight_ranges.knid: nothing"),
        ({"rewards": reward(), "weight_ranges": {"kind": [2, 1]}}, "weight_ranges.kind: must be"),
        (
            {"rewards": reward(), "weight_ranges": {"kind": [None, None]}},
            "weight_ranges.kind: bounds nothing",
        ),
        ({"rewards": reward(), "weight_ranges": {"kind": [0]}}, "weight_ranges.kind"),
        ({"rewards": reward(), "weight_ranges": {"kind": [-101, 0]}}, "weight_ranges.kind"),
        ({"rewards": reward(default=0.5), "weight_ranges": {"kind": [1, None]}}, "default of rewards.kind"),
        (
            {"rewards": reward(), "presets": {"p": {}}, "weight_ranges": {"kind": [1, None]}},
            "presets.p weighs",
        ),
        ({"http": {"max_output_tokens": 0}}, "http.max_output_tokens"),
        ({"http": {"key_share": 0.0}}, "http.key_share"),
        ({"http": {"queue_seconds": 0.0}}, "http.queue_seconds"),
        ({"http": {"max_unread_bytes": 1000}}, "http.max_unread_bytes"),
        ({"model": "a:b"}, "model"),
        ({"base": None}, "base"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], named: str) -> None:
    assert named in complaint(**changes)


def test_nothing_changes_after_reading() -> None:
    deployment = read_deployment(MINIMAL, "d")
    with pytest.raises(ValidationError):
        deployment.model = "other"  # type: ignore[misc]


def test_preferences_left_out_are_off() -> None:
    deployment = read_deployment(
        {**MINIMAL, "rewards": [*reward(default=0.25), {"name": "short", "model": "s"}]}, "d"
    )
    assert deployment.whole({"short": 2}) == {"kind": 0.0, "short": 2.0}


def test_the_engines_limits_are_the_engines() -> None:
    settings = Deployment(model="m", base={"model": "b"}).engine  # type: ignore[arg-type]
    assert EngineConfig(**settings.model_dump()) == EngineConfig()


def test_paths_are_meant_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "models" / "base").mkdir(parents=True)
    config = tmp_path / "d.yaml"
    config.write_text(
        "model: m\nbase: models/base\nrewards:\n"
        "  - {name: kind, model: org/kind, chat_template: kind.jinja}\n"
        "http: {api_key_file: keys.txt}\n"
    )
    deployment = read_deployment(read_config_file(config), "d")
    assert deployment.base.model == str(tmp_path / "models/base")
    assert deployment.rewards[0].model == "org/kind"
    assert deployment.rewards[0].chat_template == str(tmp_path / "kind.jinja")
    assert deployment.http.api_key_file == str(tmp_path / "keys.txt")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"model: [", "not valid YAML"),
        (b"- a\n", "must be a mapping"),
        (b"\xff\xfe", "not UTF-8"),
        (b"model: a\nmodel: b\n", "'model' twice"),
        (b"1: a\n", "no text"),
        (b"x: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, content: bytes, named: str) -> None:
    config = tmp_path / "d.yaml"
    config.write_bytes(content)
    with pytest.raises(UserError, match=named) as caught:
        read_config_file(config)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nope\.yaml: cannot be read: No such file"):
        read_config_file(tmp_path / "nope.yaml")


def scorer(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "score", "model": "s", "trained_on": "responses", **fields}]


def conditioned(**fields: Any) -> dict[str, Any]:
    return {"name": "parm", "model": "p", "objectives": ["a", "b"], **fields}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"base": {"model": "b", "negative_prompt": "yes"}}, "base.negative_prompt"),
        ({"rewards": reward(reference="")}, "rewards[0].reference"),
        (
            {"rewards": reward(reference=None), "policies": [{"name": "kind", "model": "k"}]},
            "policies: the name 'kind'",
        ),
        ({"policies": [{"name": "base", "model": "k"}]}, "taken by the base model"),
        ({"policies": [{"name": "base.negative", "model": "k"}]}, "taken by the base's negative prompt"),
        ({"policies": [{"name": "safe", "model": "k", "default": 1}]}, "policies[0].default: unknown key"),
        (
            {"rewards": [*reward(reference="r"), *reward(name="kind.reference")]},
            "taken by the reference of 'kind'",
        ),
        ({"scorers": scorer(trained_on="words")}, "scorers[0].trained_on"),
        ({"scorers": [{"name": "score", "model": "s"}]}, "scorers[0].trained_on: is missing"),
        ({"scorers": scorer() + scorer()}, "scorers: the name 'score' is used twice"),
        ({"conditioned": conditioned(objectives=[])}, "conditioned.objectives"),
        ({"conditioned": conditioned(objectives=["a", "a"])}, "'a' is used twice"),
        ({"conditioned": conditioned(objectives=[f"o{i}" for i in range(9)])}, "conditioned.objectives"),
        ({"conditioned": conditioned(name="score"), "scorers": scorer()}, "conditioned: the name 'score'"),
        ({"conditioned": [conditioned()]}, "conditioned"),
    ],
)
def test_what_is_wrong_with_a_role_is_named(changes: dict[str, Any], named: str) -> None:
    assert named in complaint(**changes)


def test_objectives_may_be_called_as_rewards_are() -> None:
    made = read_deployment(
        {**MINIMAL, "rewards": reward(), "conditioned": conditioned(objectives=["kind"])}, "d"
    )
    assert made.conditioned is not None
    assert made.conditioned.objectives == ("kind",)


def test_paths_of_every_role_are_meant_from_the_file(tmp_path: Path) -> None:
    for name in ("base", "safe", "sft"):
        (tmp_path / name).mkdir()
    config = tmp_path / "d.yaml"
    config.write_text(
        "model: m\nbase: base\n"
        "rewards: [{name: pair, model: org/pair, reference: base}]\n"
        "policies: [{name: safe, model: safe, reference: sft}]\n"
        "scorers: [{name: score, model: safe, trained_on: prefixes}]\n"
        "conditioned: {name: parm, model: safe, objectives: [a]}\n"
    )
    made = read_deployment(read_config_file(config), "d")
    safe = str(tmp_path / "safe")
    assert made.rewards[0].reference == "base", "the base itself, not the folder of that name"
    assert (made.policies[0].model, made.policies[0].reference) == (safe, str(tmp_path / "sft"))
    assert made.scorers[0].model == safe
    assert made.conditioned is not None
    assert made.conditioned.model == safe


def test_ranges_bound_whatever_has_a_weight() -> None:
    declared = {
        **MINIMAL,
        "base": {"model": "b", "negative_prompt": True},
        "rewards": reward(),
        "policies": [{"name": "safe", "model": "s"}],
        "scorers": scorer(),
        "conditioned": {"name": "parm", "model": "p", "objectives": ["kind", "short"]},
    }
    names = ("kind", "safe", "score", "short", "base.negative")
    assert read_deployment(declared, "d").weighed_names == names
    bounded = read_deployment({**declared, "weight_ranges": {name: [None, 2] for name in names}}, "d")
    assert bounded.weight_ranges["score"] == (None, 2.0)
    # A policy that is pinned is pinned for those who ask for it: what asks for none is refused when it comes.
    assert read_deployment({**declared, "weight_ranges": {"safe": [0.5, None]}}, "d").weight_ranges
