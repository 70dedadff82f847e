"""The built page as it is committed."""

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from server.playground import build, read_assets
from server.playground.assets import STATIC


def test_it_weighs_at_most_60_kilobytes() -> None:
    assert read_assets()
    assert sum(len(gzip.compress(asset.content)) for asset in read_assets().values()) <= 60_000


def test_the_committed_page_is_built_from_the_committed_sources() -> None:
    assert build.STAMP.read_text().strip() == build.digest(), "run `make page`"


def test_another_source_is_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "playground"
    shutil.copytree(build.FOLDER, copy, ignore=shutil.ignore_patterns("node_modules", "static", "*.py"))
    monkeypatch.setattr(build, "FOLDER", copy)
    before = build.digest()
    (copy / "source" / "style.css").write_text("body { color: red }")
    assert build.digest() != before


def test_a_build_gives_the_committed_files(tmp_path: Path) -> None:
    if not (build.FOLDER / "node_modules").is_dir():
        pytest.skip("`make page` has not been run here: npm's packages are not there")
    command = ["npx", "--no-install", "vite", "build", "--logLevel", "error", "--outDir", str(tmp_path)]
    subprocess.run(command, cwd=build.FOLDER, check=True, capture_output=True)
    assert read_assets(tmp_path) == read_assets(STATIC)


def test_its_suggestions_are_the_demos() -> None:
    assert json.loads(build.DEMO.read_text()) == json.loads(build.demo_facts())


def test_the_lockfile_names_no_registry() -> None:
    lock = json.loads((build.FOLDER / "package-lock.json").read_text())
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]
    assert all("integrity" in package for name, package in lock["packages"].items() if name)
