"""What a deployment needs besides models: its port, its keys, its templates, its extras."""

from __future__ import annotations

import socket
from pathlib import Path

from arm_models.errors import UserError
from server.access import KeyRing, is_loopback, read_key_file
from server.config import Deployment, HttpSettings
from server.decoding import Roster
from server.doctor.check import Check
from server.doctor.packages import missing


def check_surroundings(deployment: Deployment, roster: Roster) -> list[Check]:
    """Everything but the models."""
    http = deployment.http
    return [
        _port(http.host, http.port),
        _keys(deployment),
        *_templates(roster),
        *_traces(deployment.otlp_endpoint),
    ]


def _port(host: str, port: int) -> Check:
    if port == 0:
        return Check("port", f"{host}, whichever is free")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # what follows is the address once more
        return Check("port", f"cannot listen on {host}:{port}: {reason}", "problem")
    return Check("port", f"{host}:{port} is free")


def _keys(deployment: Deployment) -> Check:
    http = deployment.http
    file = http.api_key_file
    if file is None:
        return _nobody_asked(http)
    try:
        keys = read_key_file(file)
        KeyRing(deployment, keys)  # what they may is there
    except UserError as error:
        return Check("API keys", str(error), "problem")
    return Check("API keys", f"{len(keys)} in {file}")


def _nobody_asked(http: HttpSettings) -> Check:
    """Without keys: fine on loopback, elsewhere only where it was asked for; as at the start."""
    if _is_local(http.host):
        return Check("API keys", "none: everybody on this machine may use the server")
    if not http.allow_anonymous:
        return Check(
            "API keys",
            f"none, and {http.host} can be reached from other machines: give --api-key-file, or --allow-anonymous to let "
            "everybody in",
            "problem",
        )
    return Check("API keys", f"none: everybody who reaches {http.host} may use the server", "warning")


def _is_local(host: str) -> bool:
    """Whether nobody else reaches this address. One that means nothing here is for the port's check to tell."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return True
    return is_loopback(str(found[0][4][0]))


def _templates(roster: Roster) -> list[Check]:
    named = {
        name: member.chat_template
        for name, member in roster.settings.items()
        if member.chat_template is not None
    }
    return [
        Check(f"template of {name}", f"{path} cannot be read", "problem")
        for name, path in named.items()
        if not Path(path).is_file()
    ]


def _traces(endpoint: str | None) -> list[Check]:
    if endpoint is None:
        return []
    lacks = missing("otel")
    if lacks:
        return [Check("traces", f"{', '.join(lacks)} missing: pip install 'genarm[otel]'", "problem")]
    return [Check("traces", f"to {endpoint}")]
