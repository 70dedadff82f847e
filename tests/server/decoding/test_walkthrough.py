"""Adding a method is one file and its test: those in docs/methods.md do what they say, and a server offers the method."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import server.api.models
import server.decoding
from server.errors import InvalidRequest

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "methods.md").read_text(encoding="utf-8")
METHOD, TEST = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
NAME = "server.decoding.contrast"


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Puts the method's file where it belongs, for as long as the test runs."""

    def make(source: str) -> ModuleType:
        module = ModuleType(NAME)
        monkeypatch.setitem(sys.modules, NAME, module)
        exec(compile(source, "contrast.py", "exec"), module.__dict__)
        return module

    return make


def run_its_tests() -> int:
    """Runs the functions of the test's file; how many there were."""
    space: dict[str, Any] = {}
    exec(compile(TEST, "test_contrast.py", "exec"), space)
    tests = [function for name, function in space.items() if name.startswith("test_")]
    for test in tests:
        test()
    return len(tests)


def test_the_test_passes(install: Callable[[str], ModuleType]) -> None:
    install(METHOD)
    assert run_its_tests() == 2


@pytest.mark.parametrize(
    ("right", "wrong"), [("1.0 + total", "1.0"), ("name: -weight", "name: weight"), ("total > ", "total < ")]
)
def test_the_test_sees_a_broken_method(install: Callable[[str], ModuleType], right: str, wrong: str) -> None:
    assert right in METHOD
    install(METHOD.replace(right, wrong))
    with pytest.raises((AssertionError, InvalidRequest, pytest.fail.Exception)):
        run_its_tests()


def test_a_server_offers_it(
    install: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, scripted: Callable[..., Any]
) -> None:
    methods = (*server.decoding.METHODS, install(METHOD).Contrast())
    monkeypatch.setattr(server.decoding, "METHODS", methods)
    monkeypatch.setattr(server.api.models, "METHODS", methods)
    with scripted() as live, live.client() as client:
        live.engine.free()
        listed = client.get("/v1/preferences").json()["methods"][-1]
        assert (listed["name"], listed["available"]) == ("contrast", True)
        assert set(listed["parameters"]) == {"beta", "max_kl", "most"}
        asked: dict[str, Any] = {"guidance": {"method": "contrast"}, "max_tokens": 2}
        assert live.chat(preferences={"helpful": 0.5}, **asked).status_code == 200
        assert live.engine.mixes[-1] == {"base": 1.5, "helpful": -0.5, "harmless": 0.0}
        refused = live.chat(preferences={"helpful": 3.0}, **asked)
        assert refused.json()["error"]["param"] == "guidance.most"
