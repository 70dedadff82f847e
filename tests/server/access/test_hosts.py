"""A server without keys answers to no name that was not declared, but to loopback's."""

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


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "box.lan", "127.1"])
def test_without_keys_no_name_is_answered_elsewhere_but_every_address(host: str) -> None:
    found = hosts(host=host)
    addresses = ["0.0.0.0", "192.168.1.5:8000", "[fe80::1]"]
    assert [name for name in (*LOOPBACK, *FOREIGN) if found.accepts(name)] == [*LOOPBACK, *addresses]
    assert not any(found.accepts(name) for name in ("2130706433", "0x7f.1", "127.1", "1.2.3.4.", "1.2.3"))


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_with_keys_any_name_is_answered(host: str) -> None:
    assert all(hosts(anonymous=False, host=host).accepts(name) for name in (*LOOPBACK, *FOREIGN))


@pytest.mark.parametrize("anonymous", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_where_names_are_declared_nothing_else_is_answered(anonymous: bool, host: str) -> None:
    declared = hosts(anonymous=anonymous, host=host, allowed_hosts=("api.example",))
    assert [name for name in (*LOOPBACK, *FOREIGN) if declared.accepts(name)] == [*LOOPBACK]
    assert declared.accepts("api.example")


@pytest.mark.parametrize("header", NONE)
def test_what_is_no_host_is_never_answered(header: str) -> None:
    assert not hosts(anonymous=False).accepts(header)
    assert not hosts(allowed_hosts=("*",)).accepts(header)
