"""Python and the libraries that the server needs, and whether their versions are of those that it supports."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from server.doctor.check import Check

PACKAGE = "genarm"

Installed = Callable[[str], str]
"""The version of a distribution; raises PackageNotFoundError."""


def check_packages(installed: Installed = metadata.version) -> list[Check]:
    """Python first, then every library that is always needed."""
    supported = metadata.metadata(PACKAGE)["Requires-Python"]
    version = platform.python_version()
    fits = SpecifierSet(supported).contains(version, prereleases=True)
    python = Check("python", f"{version} (supported: {supported})", "ok" if fits else "problem")
    return [python, *(_check(one, installed) for one in _requirements(None))]


def check_extras(installed: Installed = metadata.version) -> list[Check]:
    """The extras, each with what it still lacks; none is needed to serve."""
    extras = metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    return [_check_extra(extra, installed) for extra in sorted(extras)]


def missing(extra: str, installed: Installed = metadata.version) -> list[str]:
    """What of an extra is not installed, or not in a version that will do."""
    checks = (_check(one, installed) for one in _requirements(extra))
    return [check.name for check in checks if check.level != "ok"]


def _check_extra(extra: str, installed: Installed) -> Check:
    lacks = missing(extra, installed)
    return Check(f"extra {extra}", f"lacks {', '.join(lacks)}" if lacks else "installed")


def _requirements(extra: str | None) -> Iterable[Requirement]:
    """What is needed always; or, what ``extra`` adds to that, but for other extras."""
    for line in metadata.requires(PACKAGE) or []:
        one = Requirement(line)
        if one.name != PACKAGE and _holds(one, extra or "") and (extra is None or not _holds(one, "")):
            yield one


def _holds(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _check(requirement: Requirement, installed: Installed) -> Check:
    wanted = str(requirement.specifier) or "any version"
    try:
        version = installed(requirement.name)
    except metadata.PackageNotFoundError:
        return Check(requirement.name, f"not installed (supported: {wanted})", "problem")
    fits = requirement.specifier.contains(version, prereleases=True)
    return Check(requirement.name, f"{version} (supported: {wanted})", "ok" if fits else "problem")
