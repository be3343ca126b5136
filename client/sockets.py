"""The DEALER sockets of clients, and the one ZeroMQ context of a process. A forked child never touches its parent's."""

from __future__ import annotations

import os
import threading

import zmq

from ..wire.errors import BrokerUnreachable

BYE_LINGER_MS = 100
"""How long a closing socket still tries to deliver its BYE."""

RECONNECT_MS = 50
SOCKETS_MAX = 8192

Dealer = zmq.Socket[bytes]

_contexts: dict[int, zmq.Context[zmq.Socket[bytes]]] = {}
"""By process id. Contexts of ancestors stay listed, so that nothing in this process ever ends them."""

_lock = threading.Lock()


def _fresh_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fresh_lock)


def open_dealer(url: str) -> Dealer:
    """A socket that connects, and connects again, to `url`. Raises `BrokerUnreachable` where ZeroMQ refuses the address."""
    socket = _context().socket(zmq.DEALER)
    socket.linger = 0
    # the session bounds what is in flight; a full socket must never block or drop
    socket.sndhwm = 0
    socket.rcvhwm = 0
    socket.reconnect_ivl = RECONNECT_MS
    try:
        if url.startswith("tcp://["):
            socket.ipv6 = True
        socket.connect(url)
    except zmq.ZMQError as error:
        socket.close()
        raise BrokerUnreachable(f"cannot connect to {url}: {error.strerror or error}") from None
    return socket


def close_dealer(socket: Dealer | None, linger_ms: int = 0) -> None:
    """Returns at once; ZeroMQ delivers in the background what `linger_ms` allows."""
    if socket is not None and not socket.closed:
        socket.close(linger=linger_ms)


def _context() -> zmq.Context[zmq.Socket[bytes]]:
    with _lock:
        pid = os.getpid()
        context = _contexts.get(pid)
        if context is None:
            context = _contexts[pid] = zmq.Context()
            context.set(zmq.MAX_SOCKETS, SOCKETS_MAX)
        return context
