"""What an address says: `tcp://host:port` or `ipc://path`. Never resolves a name and never opens a socket."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass

from .errors import ConfigurationError, shown

SOCKET_PATH_MAX_BYTES = 107
"""`sun_path` holds 108 bytes, of which one is the closing NUL."""

_TCP = re.compile(r"tcp://(?P<host>\*|[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]):(?P<port>[0-9]{1,5})", re.ASCII)
_EVERY_IPV4 = ("*", "0.0.0.0")


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """A tcp address; `host` without the brackets of an IPv6 address."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class IpcEndpoint:
    """A socket file."""

    path: str


Endpoint = TcpEndpoint | IpcEndpoint


def parse_endpoint(endpoint: str) -> Endpoint:
    """Read an address. Raises ConfigurationError with the reason."""
    if endpoint.startswith("ipc://"):
        return IpcEndpoint(_socket_path(endpoint))
    match = _TCP.fullmatch(endpoint)
    if match is None:
        raise ConfigurationError(f"{shown(endpoint)} is not an address of the form tcp://host:port or ipc://path")
    port = int(match["port"])
    if not 1 <= port <= 65535:
        raise ConfigurationError(f"{shown(endpoint)} has port {port}, and ports go from 1 to 65535")
    return TcpEndpoint(_checked_host(endpoint, match["host"]), port)


def _checked_host(endpoint: str, host: str) -> str:
    if not host.startswith("["):
        return host
    try:
        return str(ipaddress.IPv6Address(host[1:-1]))
    except ValueError:
        raise ConfigurationError(f"{shown(endpoint)} has no IPv6 address between its brackets") from None


def _socket_path(endpoint: str) -> str:
    path = endpoint.removeprefix("ipc://")
    # An abstract name (@) has no file permissions, so any user of the machine could connect; * names a file nobody else can find.
    if not path or path == "*" or path.startswith("@") or "\0" in path:
        raise ConfigurationError(f"{shown(endpoint)} must name a socket file, as in ipc:///tmp/pool.sock")
    if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
        raise ConfigurationError(f"the socket path {path} is longer than the {SOCKET_PATH_MAX_BYTES} bytes the system allows")
    return path


def is_loopback(endpoint: str) -> bool:
    """True where only this machine can reach it: 127.0.0.0/8, ::1, localhost, ipc. Any other name counts as open to others."""
    parsed = parse_endpoint(endpoint)
    if isinstance(parsed, IpcEndpoint) or parsed.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(parsed.host).is_loopback
    except ValueError:
        return False


def connect_address(endpoint: str) -> str:
    """Where a client on this machine connects to reach what is bound at `endpoint`."""
    parsed = parse_endpoint(endpoint)
    if isinstance(parsed, IpcEndpoint):
        return endpoint
    if parsed.host in _EVERY_IPV4:
        return f"tcp://127.0.0.1:{parsed.port}"
    if parsed.host == "::":
        return f"tcp://[::1]:{parsed.port}"
    return endpoint


def frontend_port(endpoint: str) -> int | None:
    """The port of a tcp address; None for ipc."""
    parsed = parse_endpoint(endpoint)
    return parsed.port if isinstance(parsed, TcpEndpoint) else None
