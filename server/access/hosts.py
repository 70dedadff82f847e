"""Which Host headers are answered: a page from elsewhere must not reach a server on loopback by a name of its own."""

from __future__ import annotations

import ipaddress
import re

from server.config import HttpSettings

_HOST = re.compile(
    r"(?:\[(?P<v6>[0-9a-f:.]{2,45})\]|(?P<name>[a-z0-9_.-]{1,253}))(?::[0-9]{1,5})?", re.IGNORECASE
)


def is_loopback(name: str) -> bool:
    """Whether a host name or address, without brackets, always means this machine."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"


class Hosts:
    """The Host headers that a server answers.

    Where it listens on loopback for anybody, loopback's names and ``http.allowed_hosts``; elsewhere any, or if
    ``allowed_hosts`` are declared, these. What is no host at all is never answered.
    """

    def __init__(self, http: HttpSettings, *, anonymous: bool) -> None:
        self._allowed = frozenset(name.lower() for name in http.allowed_hosts)
        self._open = not self._allowed and not (anonymous and is_loopback(http.host))

    def accepts(self, header: str) -> bool:
        """Whether a request with this header is answered; the port does not count."""
        found = _HOST.fullmatch(header)
        if found is None:
            return False
        name = (found["v6"] or found["name"]).lower()
        return self._open or "*" in self._allowed or name in self._allowed or is_loopback(name)
