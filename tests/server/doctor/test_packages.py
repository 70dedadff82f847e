"""Whether what is installed is what is supported."""

from importlib import metadata

import pytest

from server.doctor import packages
from server.doctor.packages import check_extras, check_packages, missing

REQUIRES = [
    "torch>=2.11",
    "transformers<6,>=5.17",
    'pytest>=9; extra == "test"',
    'genarm[bench]; extra == "test"',
]


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.metadata, "requires", lambda _: REQUIRES)


def installed(**versions: str) -> packages.Installed:
    def version(name: str) -> str:
        try:
            return versions[name]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    return version


def test_versions_are_held_to_what_the_package_declares() -> None:
    python, torch, transformers = check_packages(installed(torch="2.13.0+cpu", transformers="6.0.1"))
    assert (python.name, python.level) == ("python", "ok")
    assert (torch.name, torch.level, torch.detail) == ("torch", "ok", "2.13.0+cpu (supported: >=2.11)")
    assert (transformers.name, transformers.level) == ("transformers", "problem")
    assert "6.0.1" in transformers.detail


def test_what_is_not_installed_is_a_problem() -> None:
    _, torch, _ = check_packages(installed(transformers="5.23.0"))
    assert (torch.level, torch.detail) == ("problem", "not installed (supported: >=2.11)")


def test_an_extra_lacks_what_is_old_or_not_there_and_is_never_a_problem() -> None:
    assert missing("test", installed(pytest="9.0.1")) == []
    assert missing("test", installed(pytest="8.0")) == ["pytest"]
    assert all(check.level == "ok" for check in check_extras(installed()))
