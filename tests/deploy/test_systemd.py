"""The systemd unit: it starts what there is, drains, comes back after a crash and not after a bad file."""

import argparse
import re
import shlex
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from server import serve_command


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return root / "deploy" / "systemd"


@pytest.fixture(scope="module")
def service(folder: Path) -> dict[str, list[str]]:
    """What the unit says, by directive; one that is given several times has several values."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in (folder / "genarm.service").read_text(encoding="utf-8").splitlines():
        if re.match(r"\w+=", line):
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def flags(service: dict[str, list[str]]) -> argparse.Namespace:
    program, word, *given = shlex.split(service["ExecStart"][0])
    assert (program, word) == ("/opt/genarm/bin/genarm", "serve")
    parser = argparse.ArgumentParser()
    serve_command.add_arguments(parser)
    return parser.parse_args(given)


def test_a_stop_waits_longer_than_the_drain(service: dict[str, list[str]], ending_seconds: int) -> None:
    assert service["KillSignal"] == ["SIGTERM"]
    assert seconds(service["TimeoutStopSec"][0]) >= flags(service).drain_seconds + ending_seconds


def test_a_crash_is_followed_by_a_start_and_a_bad_file_is_not(service: dict[str, list[str]]) -> None:
    assert service["Restart"] == ["on-failure"]
    assert service["RestartPreventExitStatus"] == ["2"]
    assert service["StartLimitBurst"] == ["5"]


def test_it_runs_as_a_user_of_its_own(folder: Path, service: dict[str, list[str]]) -> None:
    made = (folder / "genarm.sysusers.conf").read_text(encoding="utf-8").split()
    assert made[:2] == ["u", service["User"][0]]


def test_only_its_cache_can_be_written(service: dict[str, list[str]]) -> None:
    assert service["ProtectSystem"] == ["strict"]
    assert not service["ReadWritePaths"]
    assert service["CacheDirectory"] == ["genarm"]
    for part in service["Environment"][0].split():
        name, _, value = part.partition("=")
        assert name == "PYTHONUNBUFFERED" or value.startswith("/var/cache/genarm")


@pytest.mark.operations
def test_systemd_accepts_the_unit(folder: Path, tmp_path: Path, tool: Callable[[str], str]) -> None:
    """Also with the drop-in for GPUs. systemd wants the program to be there: another stands in for it."""
    unit = (
        (folder / "genarm.service").read_text(encoding="utf-8").replace("/opt/genarm/bin/genarm", "/bin/true")
    )
    (tmp_path / "genarm.service").write_text(unit, encoding="utf-8")
    (tmp_path / "genarm.service.d").mkdir()
    (tmp_path / "genarm.service.d" / "gpu.conf").write_bytes((folder / "gpu.conf").read_bytes())
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", str(tmp_path / "genarm.service")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.operations
def test_systemd_finds_it_well_confined(folder: Path, tmp_path: Path, tool: Callable[[str], str]) -> None:
    """Its own measure of exposure, 0 to 10, where a unit that says nothing has 9.6."""
    unit = (
        (folder / "genarm.service").read_text(encoding="utf-8").replace("/opt/genarm/bin/genarm", "/bin/true")
    )
    (tmp_path / "genarm.service").write_text(unit, encoding="utf-8")
    command = ["security", "--offline=true", "--no-pager", "--threshold=25", str(tmp_path / "genarm.service")]
    done = subprocess.run(
        [tool("systemd-analyze"), *command], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
