"""Sending through a ROUTER without ever waiting for a slow peer.

A peer whose pipe is full gets a queue of its own, bounded in bytes and retried by timer; beyond the bound, or once nobody is
there, what was meant for it is dropped and counted. POLLOUT cannot tell: it is true while the one peer needed is full.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Sequence

import zmq

from ..wire import multipart

RETRY_S = 0.02


class Outbox:
    """One ROUTER's sends. `send` and `retry` return the peers that turned out to be gone."""

    def __init__(self, socket: zmq.Socket[bytes], peer_max_bytes: int) -> None:
        self._socket = socket
        self._peer_max_bytes = peer_max_bytes
        self._waiting: dict[bytes, deque[list[bytes]]] = {}
        self._bytes: dict[bytes, int] = {}
        self.dropped = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def send(self, peer: bytes, frames: Sequence[bytes]) -> bool:
        """False when nobody is at `peer` any more."""
        message = [peer, *frames]
        if peer in self._waiting:
            self._keep(peer, message)
            return True
        outcome = self._try(message)
        if outcome is None:
            self._keep(peer, message)
        return outcome is not False

    def retry(self) -> list[bytes]:
        """Try again what waits; the peers that are gone."""
        gone = []
        for peer, messages in tuple(self._waiting.items()):
            outcome: bool | None = True
            while messages and outcome:
                outcome = self._try(messages[0])
                if outcome:
                    self._bytes[peer] -= _size(messages.popleft())
            if outcome is False:
                gone.append(peer)
                self.dropped += len(messages)
            if outcome is False or not messages:
                del self._waiting[peer], self._bytes[peer]
        return gone

    def _keep(self, peer: bytes, message: list[bytes]) -> None:
        size = _size(message)
        if self._bytes.get(peer, 0) + size > self._peer_max_bytes:
            self.dropped += 1
            return
        self._waiting.setdefault(peer, deque()).append(message)
        self._bytes[peer] = self._bytes.get(peer, 0) + size

    def _try(self, message: list[bytes]) -> bool | None:
        """True sent, None its pipe is full, False nobody is there."""
        try:
            multipart.send(self._socket, message)
            return True
        except zmq.Again:
            return None
        except zmq.ZMQError as error:
            if error.errno == errno.EHOSTUNREACH:
                return False
            raise


def _size(message: Sequence[bytes]) -> int:
    return sum(map(len, message))
