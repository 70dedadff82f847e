"""A deployment is read once and checked whole; whatever is wrong is one line that names the key."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from arm_models.errors import UserError
from server.config import Deployment, read_api_keys, read_config_file, read_deployment
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
        ({"engine": {"max_sequences": 0}}, "engine.max_sequences"),
        ({"engine": {"speculation": "on"}}, "engine.speculation"),
        ({"engine": {"max_draft": 17}}, "engine.max_draft"),
        ({"http": {"port": 70000}}, "http.port"),
        ({"http": {"port": "80"}}, "http.port"),
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


def test_keys_are_lines(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# team\n\n one \ntwo\n")
    assert read_api_keys(str(keys)) == {"one", "two"}
    assert read_api_keys(None) == frozenset()


def test_a_key_file_without_keys_does_not_open_the_server(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# none yet\n")
    with pytest.raises(UserError, match="holds no key"):
        read_api_keys(str(keys))
    with pytest.raises(UserError, match="cannot be read"):
        read_api_keys(str(tmp_path / "nope"))
