"""The sockets of the broker, bound or refused with one sentence."""

from __future__ import annotations

import os
import socket as std_socket
from dataclasses import dataclass
from pathlib import Path

import zmq

from ..conf.endpoints import IpcEndpoint, parse_endpoint
from ..conf.paths import RunPaths, is_loopback
from ..conf.settings import ConfigurationError, Settings

BACKLOG = 4096
PEER_QUEUE = 1000
"""Messages that ZeroMQ holds for one peer before the outbox takes over."""

HEARTBEAT_MS = 5_000
"""Half-open tcp connections are found by ZeroMQ's own heartbeat."""


@dataclass(frozen=True, slots=True)
class Sockets:
    front: zmq.Socket[bytes]
    back: zmq.Socket[bytes]
    admin: zmq.Socket[bytes]

    def close(self) -> None:
        for socket in (self.front, self.back, self.admin):
            socket.close(linger=200)


def check_exposure(settings: Settings) -> None:
    """Anybody who reaches the sockets may use them: beyond loopback only where the operator says so."""
    for name, endpoint in (("frontend", settings.broker.frontend), ("backend", settings.broker.backend)):
        if endpoint and not is_loopback(endpoint) and not settings.broker.insecure:
            raise ConfigurationError(
                f"broker.{name} {endpoint} can be reached from other machines, without keys or passwords; "
                "bind to 127.0.0.1, or say --insecure if the network is trusted"
            )


def bind(context: zmq.Context[zmq.Socket[bytes]], settings: Settings, paths: RunPaths) -> Sockets:
    """Raises `ConfigurationError` for an address in use or not to be had."""
    check_exposure(settings)
    frame_max = settings.limits.frame_max_bytes
    sockets = Sockets(_router(context, frame_max), _router(context, frame_max), _router(context, frame_max))
    try:
        _bind(sockets.front, "frontend", settings.broker.frontend)
        _bind_ipc(sockets.back, paths.backend)
        if settings.broker.backend and settings.broker.backend != paths.backend:
            _bind(sockets.back, "backend", settings.broker.backend)
        _bind_ipc(sockets.admin, paths.admin)
    except BaseException:
        sockets.close()
        raise
    return sockets


def _router(context: zmq.Context[zmq.Socket[bytes]], frame_max_bytes: int) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.LINGER, 200)
    socket.setsockopt(zmq.BACKLOG, BACKLOG)
    socket.setsockopt(zmq.SNDHWM, PEER_QUEUE)
    socket.setsockopt(zmq.RCVHWM, PEER_QUEUE)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.MAXMSGSIZE, 2 * frame_max_bytes)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    return socket


def _bind(socket: zmq.Socket[bytes], name: str, endpoint: str) -> None:
    parsed = parse_endpoint(endpoint)
    if isinstance(parsed, IpcEndpoint):
        _refuse_stealing(Path(parsed.path), name)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise ConfigurationError(f"broker.{name} {endpoint} cannot be bound: {str(error.strerror).lower()}") from None


def _refuse_stealing(path: Path, name: str) -> None:
    """Binding an ipc path in use succeeds and steals it: so ask first whether somebody answers there."""
    probe = std_socket.socket(std_socket.AF_UNIX, std_socket.SOCK_STREAM)
    try:
        probe.connect(str(path))
    except OSError:
        return
    finally:
        probe.close()
    raise ConfigurationError(f"broker.{name} ipc://{path} cannot be bound: address already in use")


def _bind_ipc(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """A socket of the run directory, which the parent holds locked: nobody else can be bound there. Mode 0600."""
    before = os.umask(0o177)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise ConfigurationError(f"{endpoint} cannot be bound: {str(error.strerror).lower()}") from None
    finally:
        os.umask(before)
