"""`genarm simulate` on the command line: what is wrong is one line and code 2; what is right goes to files."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from server.cli import main
from server.simulation.cost import ClassCost, StepCost, StepSample
from server.simulation.limits import Limits
from server.simulation.load import MemberLoad
from server.simulation.measured import Measured, Work
from server.simulation.options import POLICIES
from server.simulation.routing import POLICIES as ROUTERS
from server.simulation.traffic import TrafficSettings

GRID = [
    "--replicas",
    "2,3",
    "--policies",
    "least,session",
    "--guided",
    "0",
    "--loads",
    "0.5",
    "--requests",
    "20",
    "--least",
    "20",
]


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A file of measurements of a base alone."""
    cost = StepCost(("base",), {"base": ClassCost(0.01, 0.001, 0.0, 1e-7, 0.0, (), (0.0005,))})
    steps = []
    for rows in range(1, 40):
        load = [MemberLoad(rows + 128 * (rows % 2), rows, 64 * rows, 128 * 256 * (rows % 2))]
        steps.append(StepSample(load, cost.seconds(load)))
    settings = TrafficSettings(think="1", output="4-12", longest=1024, guided=0.0, rewards=0)
    about = {
        "command": "genarm simulate measure",
        "machine": "made up",
        "traffic": settings.as_json(),
        "off_cpu": 0.0,
    }
    limits = Limits(64 * 300, max_sequences=8)
    work = Work(1e-4, 1e-3)
    path = tmp_path / "measured.json"
    Measured(about, ("base",), ("base",), (0,), limits, steps, steps, 2, (1.0,), work, work, 0.0).write(path)
    return path


def sweep(measured: Path, *more: str) -> int:
    return main(["simulate", "sweep", "--work", str(measured.parent), *GRID, *more])


def test_the_help_names_every_policy() -> None:
    assert tuple(ROUTERS) == POLICIES


def test_a_sweep_is_printed_and_kept_and_gone_on_from(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "sweep.json"
    assert sweep(measured, "--output", str(output)) == 0
    first = capsys.readouterr().out
    assert first.count("\n") == 2 + 4
    kept = json.loads(output.read_text())
    assert len(kept["cells"]) == 4
    assert kept["command"].startswith("genarm simulate sweep --replicas 2,3")
    changed = kept | {"cells": {name: cell | {"refused": 77} for name, cell in kept["cells"].items()}}
    output.write_text(json.dumps(changed))
    assert sweep(measured, "--output", str(output), "--resume") == 0
    assert capsys.readouterr().out.count("77") >= 4  # nothing was simulated again


def test_files_that_are_not_named_are_in_the_work_folder(measured: Path, tmp_path: Path) -> None:
    assert sweep(measured) == 0
    assert len(json.loads((tmp_path / "sweep.json").read_text())["cells"]) == 4
    elsewhere = tmp_path / "new" / "folder"
    assert sweep(measured, "--work", str(elsewhere), "--measured", str(measured)) == 0
    assert (elsewhere / "sweep.json").exists()
    assert sweep(measured, "--work", str(tmp_path / "empty")) == 2


def test_the_same_seed_is_the_same_table(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = []
    for seed in ("1", "1", "2"):
        assert sweep(measured, "--seed", seed) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] != tables[2]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--policies", "best"], "there is no 'best'"),
        (["--replicas", "x"], "--replicas"),
        (["--replicas", "0"], "at least 1"),
        (["--replicas", "1000000"], "at most 100,000"),
        (["--guided", "2"], "guided in [0, 1]"),
        (["--loads", "0"], "load above 0"),
        (["--requests", "0"], "--requests"),
        (["--turns", "many"], "no distribution"),
        (["--longest", "100"], "longest"),
        (["--output", "/no/such/folder/x.json"], "does not exist"),
        (["--work", "/proc/x"], "--work: /proc/x cannot be made"),
        (["--price", "-1"], "--price"),
        (["--least", "30", "--most", "20"], "--least must not be above --most"),
    ],
)
def test_what_is_wrong_is_one_line(
    measured: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(measured, *more) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        ("[]", "no JSON object"),
        ('{"gateway": 1}', "there is no 'gateway'"),
        ('{"gateway_token_seconds": -1}', "must be seconds"),
        ('{"gateway_token_seconds": "x"}', "must be seconds"),
        ('{"gateway_token_seconds": true}', "must be seconds"),
        ('{"results": [{"name": "through Ray"}]}', "bench --only replicas"),
    ],
)
def test_costs_are_checked(
    measured: Path, tmp_path: Path, costs: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "costs.json"
    path.write_text(costs)
    command = ["simulate", "document", "--work", str(measured.parent), "--docs", str(tmp_path / "docs")]
    assert main([*command, "--costs", str(path)]) == 2
    assert said in capsys.readouterr().err
    assert main([*command, "--costs", "/no/such/file"]) == 2
    path.write_text('{"gateway_token_seconds": 1e-4, "gateway_request_seconds": null}')
    assert main([*command, "--costs", str(path)]) == 0
    path.write_text('{"results": [{"name": "x"}, {"name": "y", "costs": {"registry_call_seconds": 1e-3}}]}')
    assert main([*command, "--costs", str(path)]) == 0


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(("name", "text"), [("sweep.json", '{"cells": 3}'), ("validation.json", "{}")])
def test_files_of_somebody_else_are_refused(
    tmp_path: Path, name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text)
    assert main(["simulate", "document", "--work", str(tmp_path), "--docs", str(tmp_path)]) == 2
    assert name in capsys.readouterr().err


@pytest.mark.usefixtures("measured")
def test_a_document_of_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = tmp_path / "docs"
    command = ["simulate", "document", "--work", str(tmp_path), "--docs", str(docs)]
    assert main(command) == 0
    assert {path.name for path in docs.iterdir()} == {"scale.md", "scale-fit.png"}
    assert str(docs / "scale.md") in capsys.readouterr().out
    assert main([*command, "--gateways", "0"]) == 2
    assert main([*command, "--scrape-interval", "nan"]) == 2
    assert main([*command[:-1], "/proc/docs"]) == 2


CHIP = [
    "--models",
    "tiny",
    "--bandwidth",
    "1e12",
    "--flops",
    "1e14",
    "--memory",
    "1e9",
    "--max-sequences",
    "8",
]


def test_an_assumed_machine_is_swept_and_told_apart(measured: Path, tmp_path: Path) -> None:
    chip = tmp_path / "chip"
    assumed = ["simulate", "assume", "--work", str(chip), "--measured", str(measured), *CHIP]
    assert main(assumed) == 0
    assert main(["simulate", "sweep", "--work", str(chip), *GRID]) == 0
    document = ["simulate", "document", "--work", str(tmp_path), "--docs", str(tmp_path / "docs")]
    assert main([*document, "--assumed", str(chip), "--assumed-price", "2"]) == 0
    text = (tmp_path / "docs" / "scale.md").read_text()
    told = text.partition("### Assumed, not measured")[2]
    assert "Assumed, not measured: 1e+12 bytes/s" in told
    assert told.count("| session | 0      | 0.5") == 2
    assert main([*document, "--assumed", str(tmp_path)]) == 2  # these were measured
    assert main([*assumed[:-1], "0"]) == 2
    assert main([*assumed, "--output", str(measured)]) == 2
    assert main([*assumed, "--models", "large"]) == 2
    assert main([*assumed, "--reached", "2"]) == 2


def test_simulating_needs_neither_torch_nor_the_web(measured: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'transformers', 'fastapi', 'starlette', 'uvicorn', 'pydantic', 'httpx')))\n"
        "from server.cli import main\n"
        f"sys.exit(main(['simulate', 'sweep', '--work', {str(measured.parent)!r}, *{GRID!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_all_goes_on_from_what_there_is(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts are called with their defaults, each with the files of the one before."""
    import server.simulate_command as command

    called: list[tuple[str, Path | None]] = []

    def part(name: str, code: int = 0) -> Callable[..., int]:
        def call(args: object) -> int:
            called.append((name, getattr(args, "output", None)))
            if name == "validate":
                (tmp_path / "validation.json").write_text(json.dumps({"cases": [{"reached": False}]}))
            return code

        return call

    for name, code in (("measure", 0), ("validate", 1), ("sweep", 0), ("document", 0)):
        monkeypatch.setattr(command, name, part(name, code))
    assert main(["simulate", "all", "--work", str(tmp_path), "--docs", str(tmp_path)]) == 1
    assert called == [
        ("validate", tmp_path / "validation.json"),
        ("sweep", tmp_path / "sweep.json"),
        ("document", None),
    ]
    measured.unlink()
    called.clear()
    assert (
        main(["simulate", "all", "--work", str(tmp_path), "--docs", str(tmp_path)]) == 1
    )  # it still misses its bar
    assert [name for name, _ in called] == ["measure", "sweep", "document"]
    assert called[0] == ("measure", measured)
