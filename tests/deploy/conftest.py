"""What lies in deploy/ and beside it, read as those who run it read it."""

import copy
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LINTERS = ROOT / ".venvs" / "operations" / "bin"

ENDING_SECONDS = 1 + 5
"""What a server takes after its drain at the most: its last words, and closing connections."""


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def ending_seconds() -> int:
    return ENDING_SECONDS


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """The path of a program of ``make test-operations``; without it the test is skipped, on CI it fails."""

    def find(name: str) -> str:
        found = shutil.which(name, path=f"{LINTERS}{os.pathsep}{os.environ['PATH']}")
        if found is None:
            stop = pytest.fail if os.environ.get("CI") else pytest.skip
            stop(f"{name} is not installed: docs/operations.md says how `make test-operations` gets it")
        return found

    return find


def compose_files(*names: str) -> dict[str, Any]:
    """Compose files as one: later ones over earlier ones, variables at their defaults."""
    merged: dict[str, Any] = {}
    for name in names:
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / name).read_text(encoding="utf-8"))
        merged = _over(merged, yaml.safe_load(text))
    return {key: value for key, value in merged.items() if not key.startswith("x-")}


def _over(base: Any, other: Any, key: str = "") -> Any:
    """How compose merges: mappings by key, lists one behind the other, but for commands."""
    if isinstance(base, dict) and isinstance(other, dict):
        return base | {name: _over(base.get(name), value, name) for name, value in other.items()}
    if isinstance(base, list) and isinstance(other, list) and key not in ("command", "test"):
        return base + other
    return other


@pytest.fixture(scope="session")
def compose() -> Callable[..., dict[str, Any]]:
    """``compose("docker-compose.yml", "deploy/compose/keys.yml")``: what these files say together."""
    return compose_files


def kustomized(folder: Path) -> list[dict[str, Any]]:
    """The manifests of a kustomization: its resources, its namespace and JSON patches; other fields are refused."""
    declared = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    assert set(declared) <= {"apiVersion", "kind", "namespace", "resources", "patches"}
    manifests: list[dict[str, Any]] = []
    for name in declared["resources"]:
        path = (folder / name).resolve()
        manifests += (
            kustomized(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        )
    for manifest in manifests:
        if "namespace" in declared and manifest["kind"] != "Namespace":
            manifest["metadata"]["namespace"] = declared["namespace"]
    for patch in declared.get("patches", []):
        kind, name = patch["target"]["kind"], patch["target"]["name"]
        (manifest,) = (one for one in manifests if (one["kind"], one["metadata"]["name"]) == (kind, name))
        for operation in yaml.safe_load((folder / patch["path"]).read_text(encoding="utf-8")):
            _patch(manifest, operation)
    return manifests


def _patch(document: Any, operation: dict[str, Any]) -> None:
    *parents, last = operation["path"].removeprefix("/").split("/")
    for part in parents:
        document = document[int(part)] if isinstance(document, list) else document[part]
    assert operation["op"] in ("add", "replace")
    assert operation["op"] == "add" or last in document, operation["path"]
    document[last] = operation["value"]


@pytest.fixture(scope="session")
def manifests() -> Callable[[str], list[dict[str, Any]]]:
    """``manifests("base")``, ``manifests("gpu")``: what kubectl would apply."""
    built = {name: kustomized(ROOT / "deploy" / "kubernetes" / name) for name in ("base", "gpu")}
    return lambda name: copy.deepcopy(built[name])
