"""A server on loopback without keys answers to loopback's names alone."""

from typing import Any

import pytest

from server.access import Hosts, is_loopback
from server.config import HttpSettings

LOOPBACK = ("localhost", "LOCALHOST:80", "127.0.0.1:8000", "127.8.9.1", "[::1]", "[::1]:8000")
FOREIGN = (
    "evil.example",
    "127.0.0.1.nip.io",
    "localhost.evil.example",
    "0.0.0.0",
    "192.168.1.5:8000",
    "[fe80::1]",
)
NONE = (
    "",
    " ",
    "a b",
    "localhost@evil",
    "localhost/",
    "[::1",
    "::1",
    "localhost:x",
    "http://localhost",
    "a\x00",
)


def hosts(*, anonymous: bool = True, **http: Any) -> Hosts:
    return Hosts(HttpSettings(**http), anonymous=anonymous)


@pytest.mark.parametrize("name", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LocalHost"])
def test_loopback_is_this_machine(name: str) -> None:
    assert is_loopback(name)


@pytest.mark.parametrize(
    "name", ["", "0.0.0.0", "::", "10.0.0.1", "localhost.evil", "127.0.0.1.evil", "128.0.0.1", "127.1"]
)
def test_nothing_else_is(name: str) -> None:
    assert not is_loopback(name)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_on_loopback_without_keys_other_names_are_not_answered(host: str) -> None:
    found = hosts(host=host)
    assert [name for name in (*LOOPBACK, *FOREIGN) if found.accepts(name)] == [*LOOPBACK]


def test_declared_names_are_answered_besides() -> None:
    found = hosts(allowed_hosts=("Box.lan", "fe80::1"))
    assert [name for name in FOREIGN if found.accepts(name)] == ["[fe80::1]"]
    assert found.accepts("box.lan:8000")
    assert not found.accepts("x.box.lan")
    assert found.accepts("localhost")
    assert all(hosts(allowed_hosts=("*",)).accepts(name) for name in (*LOOPBACK, *FOREIGN))


@pytest.mark.parametrize(
    ("anonymous", "host"), [(False, "127.0.0.1"), (True, "0.0.0.0"), (False, "10.0.0.1")]
)
def test_with_keys_or_elsewhere_any_name_is_answered_unless_some_are_declared(
    anonymous: bool, host: str
) -> None:
    assert all(hosts(anonymous=anonymous, host=host).accepts(name) for name in (*LOOPBACK, *FOREIGN))
    declared = hosts(anonymous=anonymous, host=host, allowed_hosts=("api.example",))
    assert declared.accepts("api.example")
    assert not declared.accepts("evil.example")


@pytest.mark.parametrize("header", NONE)
def test_what_is_no_host_is_never_answered(header: str) -> None:
    assert not hosts(anonymous=False).accepts(header)
    assert not hosts(allowed_hosts=("*",)).accepts(header)
