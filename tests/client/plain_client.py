"""A client that uses nothing but pyzmq and msgpack, written from docs/protocol.md alone."""

from __future__ import annotations

import os
import time
from typing import Any

import msgpack
import zmq

SILENCE_S = 3.0
PING_S = 1.0


def search(url: str, query: str, top_k: int, timeout_s: float) -> list[tuple[str, float]]:
    """(id, score) of the hits, best first. Raises `RuntimeError` with the code and sentence of an error, or `TimeoutError`."""
    deadline = time.monotonic() + timeout_s
    identity = os.urandom(16)
    with zmq.Context() as context:
        while time.monotonic() < deadline:
            with context.socket(zmq.DEALER) as dealer:
                dealer.setsockopt(zmq.LINGER, 0)
                dealer.connect(url)
                send(dealer, b"HELLO", {"client": "plain"})
                hits = talk(dealer, identity, query, top_k, deadline)
                if hits is not None:
                    return hits
    raise TimeoutError(f"no answer within {timeout_s} s")


def talk(dealer: Any, identity: bytes, query: str, top_k: int, deadline: float) -> list[tuple[str, float]] | None:
    """The hits; None when a fresh socket is needed, or the deadline has come."""
    epoch: str | None = None
    heard = asked_for_life = time.monotonic()
    send_at = float("inf")
    while (now := time.monotonic()) < deadline and now < heard + SILENCE_S:
        if now >= send_at:
            header = {"op": "search", "items": 1, "top_k": top_k, "remaining_ms": max(1, int((deadline - now) * 1e3))}
            send(dealer, b"REQUEST", header, identity, {"queries": [query]})
            send_at = float("inf")
        if epoch is not None and now >= asked_for_life + PING_S:
            send(dealer, b"PING", {})
            asked_for_life = now
        if not dealer.poll(max(0, int((min(deadline, send_at, now + 0.1) - now) * 1e3)) + 1):
            continue
        _, kind, answered, packed, body = dealer.recv_multipart()
        header, heard = msgpack.unpackb(packed), time.monotonic()
        if kind == b"WELCOME" and epoch is None:
            epoch, send_at = header["epoch"], heard
        elif kind == b"UNKNOWN" or (kind in (b"PING", b"PONG", b"WELCOME") and header["epoch"] != epoch):
            return None
        elif kind == b"REPLY" and answered == identity:
            (result,) = msgpack.unpackb(body)["results"]
            return [(passage["id"], score) for passage, score in zip(result["passages"], result["scores"], strict=True)]
        elif kind == b"ERROR" and header["code"] == "overloaded":
            send_at = heard + header.get("retry_after_ms", 0) / 1e3 + 0.01
        elif kind == b"ERROR" and answered in (identity, b""):
            raise RuntimeError(f"{header['code']}: {header['message']}")
    return None


def send(dealer: Any, kind: bytes, header: dict[str, Any], identity: bytes = b"", body: dict[str, Any] | None = None) -> None:
    dealer.send_multipart([b"RP1", kind, identity, msgpack.packb(header), b"" if body is None else msgpack.packb(body)])
