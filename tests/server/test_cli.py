"""The command: what the user did wrong is one line and exit code 2; flags win over the file; --help is fast."""

import argparse
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from arm_models.errors import UserError
from server import cli, serve_command
from server.access import KeyRing
from server.config import Deployment

CONFIG = """
model: mine
base: {model: b, dtype: float32}
rewards:
  - {name: kind, model: k, default: 0.5}
http: {port: 9000}
engine: {max_sequences: 4}
"""


def deployment(*flags: str) -> Deployment:
    parser = argparse.ArgumentParser()
    serve_command.add_arguments(parser)
    return serve_command.deployment_from(parser.parse_args(flags))


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "d.yaml"
    path.write_text(CONFIG)
    return str(path)


def test_a_base_alone_is_enough() -> None:
    made = deployment("--base", "org/some-model")
    assert (made.model, made.base.model, made.rewards) == ("some-model", "org/some-model", ())


def test_flags_name_rewards() -> None:
    made = deployment("--base", "b", "--reward", "kind=org/kind", "--reward", "short=s=1")
    assert [(reward.name, reward.model) for reward in made.rewards] == [
        ("kind", "org/kind"),
        ("short", "s=1"),
    ]


def test_flags_win_over_the_file_and_leave_the_rest(config: str) -> None:
    flags = ("--base", "other", "--reward", "kind=new", "--reward", "short=s", "--port", "0")
    made = deployment(
        "--config", config, *flags, "--max-sequences", "8", "--device", "cuda:1", "--threads", "1"
    )
    assert (made.model, made.base.model, made.base.dtype) == ("mine", "other", "float32")
    assert [(reward.name, reward.model, reward.default) for reward in made.rewards] == [
        ("kind", "new", 0.5),
        ("short", "s", 1.0),
    ]
    assert (made.http.port, made.engine.max_sequences, made.threads) == (0, 8, 1)
    assert {made.base.device, *(reward.device for reward in made.rewards)} == {"cuda:1"}


def test_presets_of_a_file_join_those_there_are_and_win_over_them(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text(CONFIG + "presets: {soft: {kind: 0.1}, firm: {kind: 2}}\n")
    (tmp_path / "presets.yaml").write_text("presets:\n  firm: {kind: 3}\n  mine: {kind: -1}\n")
    made = deployment("--config", str(tmp_path / "d.yaml"), "--presets", str(tmp_path / "presets.yaml"))
    assert made.presets == {"soft": {"kind": 0.1}, "firm": {"kind": 3.0}, "mine": {"kind": -1.0}}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("presets: {x: {kind: 1}}\nmodel: m\n", "the key presets and no other"),
        ("presets: [x]\n", "the key presets and no other"),
        ("presets: {x: {nobody: 1}}\n", "nobody"),
        ("- x\n", "must be a mapping"),
    ],
)
def test_a_file_of_presets_holds_presets_of_rewards_there_are(
    content: str, named: str, config: str, tmp_path: Path
) -> None:
    (tmp_path / "presets.yaml").write_text(content)
    with pytest.raises(UserError, match=named):
        deployment("--config", config, "--presets", str(tmp_path / "presets.yaml"))


def test_without_arguments_the_demo_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    from arm_models.demo import deployment as demo

    monkeypatch.setattr(demo.DemoDeployment, "missing", ())
    made = deployment()
    shipped = demo.demo_deployment()
    assert made.model == shipped.model_id
    assert made.reward_names == tuple(reward.name for reward in shipped.rewards)
    assert set(made.presets) == set(shipped.presets)


def test_a_demo_without_its_models_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from arm_models.demo import deployment as demo

    monkeypatch.setattr(demo.DemoDeployment, "missing", (tmp_path / "base",))
    with pytest.raises(UserError, match="genarm demo build"):
        deployment()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--reward", "kind=k"], "--reward needs --base"),
        (["--base", "b", "--reward", "kind"], "NAME=MODEL"),
        (["--base", "b", "--reward", "=k"], "NAME=MODEL"),
        (["--base", "b", "--reward", "base=k"], "taken by the base"),
        (["--base", "b", "--port", "70000"], "http.port"),
        (["--base", "b", "--drain-seconds", "nan"], "http.drain_seconds"),
        (["--base", "b", "--api-key-file", "/nope"], "/nope: cannot be read"),
        (["--config", "/nope.yaml"], "/nope.yaml: cannot be read"),
        (["--base", "b", "--host", "256.0.0.1", "--port", "0"], "cannot listen on 256.0.0.1"),
        (["--base", "b", "--allowed-host", "http://x"], "http.allowed_hosts[0]"),
        (["--base", "b", "--host", "0.0.0.0", "--port", "0"], "give --api-key-file, or --allow-anonymous"),
    ],
)
def test_a_user_error_is_one_line_and_exit_code_2(
    flags: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith("genarm: ")
    assert named in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("section", "flags"),
    [
        ("http: 3", ["--port", "0"]),
        ("http:", ["--host", "127.0.0.1"]),
        ("engine: [4]", ["--max-sequences", "4"]),
        ("base: 3", ["--device", "cpu"]),
        ("rewards: 3", ["--device", "cpu"]),
        ("rewards:", ["--device", "cpu"]),
        ("rewards: {kind: k}", ["--dtype", "float32"]),
        ("rewards: [3]", ["--device", "cpu"]),
    ],
)
def test_a_flag_does_not_hide_what_is_wrong_in_the_file(
    section: str, flags: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "d.yaml"
    base = "" if section.startswith("base") else "base: b\n"
    path.write_text(f"model: mine\n{base}{section}\n")
    with pytest.raises(UserError) as told:
        deployment("--config", str(path), *flags)
    named = section.partition(":")[0]
    assert f"{path}: {named}" in str(told.value)
    assert "missing" not in str(told.value)


def test_a_taken_port_is_known_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["serve", "--base", "b", "--port", port]) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_an_address_that_others_reach_needs_keys_or_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[str, bool]] = []

    def serve(_: Deployment, keys: KeyRing, listening: socket.socket, __: object) -> int:
        served.append((listening.getsockname()[0], keys.required))
        listening.close()
        return 0

    monkeypatch.setattr(serve_command, "_serve", serve)
    monkeypatch.setattr(serve_command, "log_to_stderr", lambda: None)
    (tmp_path / "keys").write_text("sk-one\n")
    base = ("serve", "--base", "b", "--port", "0")
    for flags in (
        ("--host", "0.0.0.0", "--allow-anonymous"),
        ("--host", "0.0.0.0", "--api-key-file", str(tmp_path / "keys")),
        ("--host", "127.0.0.1"),
        ("--host", "localhost"),
    ):
        assert cli.main([*base, *flags]) == 0
    assert served[:3] == [("0.0.0.0", False), ("0.0.0.0", True), ("127.0.0.1", False)]
    assert len(served) == 4


@pytest.mark.parametrize("arguments", [["--nope"], ["nope"], ["serve", "--nope"], []])
def test_an_unknown_option_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_help_does_not_load_what_it_does_not_need() -> None:
    code = (
        "import sys\nfrom server import cli\n"
        "try:\n    cli.main(['serve', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(sorted({'torch', 'transformers', 'fastapi', 'uvicorn'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--reward NAME=MODEL" in done.stdout


def test_each_command_names_a_module_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Owner:
        @staticmethod
        def add_arguments(parser: argparse.ArgumentParser) -> None:
            parser.add_argument("--x")

        @staticmethod
        def run(args: Any) -> int:
            return int(args.x)

    monkeypatch.setattr(cli, "import_module", lambda name: asked.append(name) or Owner)
    for command, (module, _) in cli.COMMANDS.items():
        assert cli.main([command, "--x", "7"]) == 7
        assert asked.pop() == module
