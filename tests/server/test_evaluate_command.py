"""``genarm evaluate``: the table of one deployment, and one clear line for what cannot be done."""

import json
from pathlib import Path

import pytest

from arm_models.demo.build import Build
from server.cli import main


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluate") / "models"
    Build(out, seed=0, quick=True).run(lambda _: None)
    return out


def test_it_prints_the_table_and_writes_the_rows(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "rows.json"
    arguments = [
        "evaluate",
        "--demo",
        "--prompts",
        "10",
        "--base",
        str(models / "base"),
        "--output",
        str(output),
    ]
    assert main([*arguments, "--reward", f"helpful={models / 'helpful'}"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("| weights | helpful | harmless (risky) | words | fluent |")
    assert "| helpful 1 |" in printed
    assert "10 held-out prompts, seed 0, temperature 1" in printed
    written = json.loads(output.read_text())
    assert [row["weights"] for row in written["rows"]] == [
        {},
        {"helpful": 0.25},
        {"helpful": 0.5},
        {"helpful": 1.0},
    ]
    assert all(len(row["answers"]) == 10 for row in written["rows"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "pass --demo"),
        (["--demo", "--prompts", "3"], "--prompts must be at least 10"),
        (["--demo", "--output", "rows.txt"], "must end in .json or .csv"),
        (["--demo", "--reward", "helpful"], "write NAME=MODEL"),
        (["--demo", "--reward", "a=x", "--reward", "a=y"], "the name a is taken"),
        (["--demo", "--base", "/nowhere", "--reward", "helpful=/nowhere"], "/nowhere"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
