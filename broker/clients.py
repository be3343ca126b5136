"""The clients that said HELLO, and which pending requests are theirs."""

from __future__ import annotations

IDLE_PING_S = 30.0
"""A ROUTER says that a peer is gone only when something is sent to it: idle clients, too, would be kept for ever."""


class Client:
    """`items_max`: items it takes in one message. `pending`: ids that it waits for."""

    __slots__ = ("items_max", "peer", "pending", "pinged")

    def __init__(self, peer: bytes, items_max: int, now: float) -> None:
        self.peer = peer
        self.items_max = max(1, items_max)
        self.pending: set[bytes] = set()
        self.pinged = now


class Clients:
    def __init__(self) -> None:
        self._by_peer: dict[bytes, Client] = {}

    def __len__(self) -> int:
        return len(self._by_peer)

    def welcome(self, peer: bytes, items_max: int, now: float) -> Client:
        """A HELLO; said again it changes what the client can take, and nothing else."""
        client = self._by_peer.get(peer)
        if client is None:
            client = self._by_peer[peer] = Client(peer, items_max, now)
        client.items_max = max(1, items_max)
        return client

    def at(self, peer: bytes) -> Client | None:
        return self._by_peer.get(peer)

    def forget(self, peer: bytes) -> Client | None:
        return self._by_peer.pop(peer, None)

    def to_ping(self, now: float) -> list[bytes]:
        """Who is to be asked for life now: those that own work each time, the others once in `IDLE_PING_S`."""
        asked = [client for client in self._by_peer.values() if client.pending or now >= client.pinged + IDLE_PING_S]
        for client in asked:
            client.pinged = now
        return [client.peer for client in asked]

    def waiting_for(self, peer: bytes, request_id: bytes) -> None:
        client = self._by_peer.get(peer)
        if client is not None:
            client.pending.add(request_id)

    def no_longer_waiting_for(self, peer: bytes, request_id: bytes) -> None:
        client = self._by_peer.get(peer)
        if client is not None:
            client.pending.discard(request_id)
