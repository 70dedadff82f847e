"""Which Host headers are answered: a page from elsewhere must not reach a server without keys by a name of its own."""

from __future__ import annotations

import ipaddress
import re

from server.config import HttpSettings

_HOST = re.compile(
    r"(?:\[(?P<v6>[0-9a-f:.]{2,45})\]|(?P<name>[a-z0-9_.-]{1,253}))(?::[0-9]{1,5})?", re.IGNORECASE
)


def is_loopback(name: str) -> bool:
    """Whether a host name or address, without brackets, always means this machine."""
    return ipaddress.ip_address(name).is_loopback if _is_address(name) else name.lower() == "localhost"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Hosts:
    """The Host headers that a server answers: ``http.allowed_hosts`` and loopback's names. If none are declared, with keys any;
    without keys, on another address than loopback, every address: no page from elsewhere is at one of the server's.

    What is no host at all is never answered.
    """

    def __init__(self, http: HttpSettings, *, anonymous: bool) -> None:
        self._allowed = frozenset(name.lower() for name in http.allowed_hosts)
        self._any = "*" in self._allowed or not (self._allowed or anonymous)
        self._addresses = not (self._allowed or is_loopback(http.host))

    def accepts(self, header: str) -> bool:
        """Whether a request with this header is answered; the port does not count."""
        found = _HOST.fullmatch(header)
        if found is None:
            return False
        name = (found["v6"] or found["name"]).lower()
        known = name in self._allowed or is_loopback(name)
        return self._any or known or (self._addresses and _is_address(name))
