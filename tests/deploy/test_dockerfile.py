"""The images: pinned, small, without root, and started as the server's own command line allows. The rules that need no
linter; hadolint's own run is in test_linters.py.
"""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from server import serve_command


@dataclass(frozen=True)
class Stage:
    """``FROM base AS name``, and its instructions as (word, rest) with continued lines joined."""

    base: str
    name: str
    instructions: list[tuple[str, str]]

    def all(self, word: str) -> list[str]:
        return [rest for one, rest in self.instructions if one == word]


@pytest.fixture(scope="module")
def stages(root: Path) -> dict[str, Stage]:
    lines = [
        line for line in (root / "Dockerfile").read_text(encoding="utf-8").splitlines() if line[:1] != "#"
    ]
    found: dict[str, Stage] = {}
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.split()
            found[name] = Stage(base, name, [])
        elif word and found:
            found[name].instructions.append((word, rest))
    return found


def lineage(stages: dict[str, Stage], name: str) -> list[tuple[str, str]]:
    """Every instruction that makes an image, the earliest first; what is copied from other stages is not among them."""
    stage = stages[name]
    before = lineage(stages, stage.base) if stage.base in stages else []
    return before + stage.instructions


def test_images_from_elsewhere_have_a_full_version(stages: dict[str, Stage]) -> None:
    bases = {stage.base for stage in stages.values()} - set(stages)
    assert bases
    for base in bases:
        assert re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+-\S+", base), base


def test_both_images_run_without_root_and_the_small_one_is_the_default(stages: dict[str, Stage]) -> None:
    assert list(stages)[-1] == "cpu"
    for name in ("cpu", "gpu"):
        assert [rest for word, rest in lineage(stages, name) if word == "USER"][-1] == "10001:10001"


def test_what_builds_stays_behind(stages: dict[str, Stage]) -> None:
    for name in ("cpu", "gpu"):
        assert stages["build"].instructions[0] not in lineage(stages, name)
        assert not [rest for word, rest in lineage(stages, name) if "pip install" in rest]
        assert stages[name].all("COPY") == ["--from=build /opt/genarm /opt/genarm"]


def test_packages_leave_no_cache_and_no_lists(stages: dict[str, Stage]) -> None:
    runs = [rest for stage in stages.values() for rest in stage.all("RUN")]
    installs = [run for run in runs if "apt-get install" in run]
    assert installs
    for run in installs:
        steps = [" ".join(step.split()) for step in run.split("&&")]
        assert steps[0] == "apt-get update"
        assert steps[-1] == "rm -rf /var/lib/apt/lists/*"
        for install in (step for step in steps if "install" in step):
            assert "--yes" in install.split()
            assert "--no-install-recommends" in install.split()
    pips = [step for run in runs for step in run.split("&&") if "pip install" in step]
    assert pips
    assert all("--no-cache-dir" in pip.split() for pip in pips)


def test_nothing_is_fetched_or_made_root_on_the_way(stages: dict[str, Stage]) -> None:
    for stage in stages.values():
        assert not stage.all("ADD")
        for run in stage.all("RUN"):
            assert not re.search(r"\b(sudo|curl|wget|chmod 777|apt-get upgrade)\b", run)


def test_everything_the_project_needs_is_installed_before_its_sources_come(stages: dict[str, Stage]) -> None:
    words = [f"{word} {rest}" for word, rest in stages["build"].instructions]
    needs = next(index for index, line in enumerate(words) if "--requirement requirements.txt" in line)
    assert needs < words.index("COPY server server")


def test_what_is_needed_first_is_all_that_serving_takes_traces_too(
    root: Path, stages: dict[str, Stage], tmp_path: Path
) -> None:
    (listing,) = (run for run in stages["build"].all("RUN") if "requirements.txt" in run)
    _, flag, program = shlex.split(listing.partition(">")[0])
    shutil.copy(root / "pyproject.toml", tmp_path)
    done = subprocess.run(
        [sys.executable, flag, program], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs = [*project["dependencies"], *project["optional-dependencies"]["otel"]]
    assert done.stdout.splitlines() == needs


def test_the_context_holds_what_is_copied_and_nothing_else(root: Path, stages: dict[str, Stage]) -> None:
    rules = (root / ".dockerignore").read_text(encoding="utf-8").split()
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source
        for stage in stages.values()
        for rest in stage.all("COPY")
        if not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied == let_in
    assert all((root / name).exists() for name in let_in)


def test_the_port_is_the_same_everywhere_and_health_is_asked(stages: dict[str, Stage]) -> None:
    runtime = stages["runtime"]
    (port,) = runtime.all("EXPOSE")
    (health,) = runtime.all("HEALTHCHECK")
    assert f"http://127.0.0.1:{port}/health" in health
    (command,) = runtime.all("CMD")
    args = json.loads(command)
    assert args[args.index("--port") + 1] == port


def test_the_command_is_one_that_the_server_understands(stages: dict[str, Stage]) -> None:
    assert json.loads(stages["runtime"].all("ENTRYPOINT")[0]) == ["genarm"]
    word, *flags = json.loads(stages["runtime"].all("CMD")[0])
    parser = argparse.ArgumentParser(exit_on_error=False)
    serve_command.add_arguments(parser)
    assert word == "serve"
    assert parser.parse_args(flags).host == "0.0.0.0"


def test_caches_are_written_where_the_user_may_write(stages: dict[str, Stage]) -> None:
    variables = dict(part.split("=", 1) for line in stages["runtime"].all("ENV") for part in line.split())
    (made,) = (line for line in stages["runtime"].all("RUN") if "install --directory" in line)
    assert "--owner=10001" in made
    for name in ("HOME", "HF_HOME", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH"):
        assert variables[name].startswith("/var/cache/genarm")
