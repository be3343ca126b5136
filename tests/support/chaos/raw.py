"""A client of the wire with many requests under way at once, from docs/protocol.md: pyzmq and msgpack, nothing of ours.

It follows the rules of section 4 there, and hides nothing: each answer to an id that was answered before is told as such.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import msgpack
import zmq

SILENCE_S = 3.0
PING_S = 1.0
GARBLED_PAUSE_S = 0.1
EMPTY = msgpack.packb({})

Told = Callable[[int, float, str, str, list[str]], None]


@dataclass
class Asked:
    number: int
    question: str
    began: float
    deadline: float
    send_at: float = 0.0
    sent: bool = False
    given_up: bool = False


class RawClient:
    """`told(number, began, question, code, ids)` gets every answer, also a second one; code is "" for a reply."""

    def __init__(self, url: str, timeout_s: float, told: Told) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._told = told
        self._context = zmq.Context()
        self._asked: dict[bytes, Asked] = {}
        self._answered: dict[bytes, Asked] = {}
        self._epoch: str | None = None
        self._heard = self._pinged = 0.0
        self._window = 1
        self._dealer: Any = None
        self._connect()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._context.destroy(linger=0)

    def ask(self, question: str, number: int) -> None:
        now = time.monotonic()
        self._asked[os.urandom(16)] = Asked(number, question, time.time(), now + self._timeout_s)

    def turn(self, wait_s: float) -> None:
        """Send what is due, read what came, for at most `wait_s` when nothing does."""
        if self._dealer.poll(int(wait_s * 1e3)):
            self._receive()
        now = time.monotonic()
        for identity in [identity for identity, asked in self._asked.items() if now >= asked.deadline]:
            self._asked[identity].given_up = True
            self._answer(identity, "deadline_exceeded", [])
        if not self._asked:
            self._heard = now
        if now > self._heard + SILENCE_S:
            self._connect()
        elif self._epoch is not None:
            self._send_due(now)

    def _send_due(self, now: float) -> None:
        if now >= self._pinged + PING_S:
            self._pinged = now
            self._dealer.send_multipart([b"RP1", b"PING", b"", EMPTY, b""])
        out = sum(asked.sent for asked in self._asked.values())
        for identity, asked in self._asked.items():
            if out >= self._window:
                return
            if not asked.sent and now >= asked.send_at:
                remaining_ms = max(1, int((asked.deadline - now) * 1e3))
                header = {"op": "search", "items": 1, "top_k": 5, "remaining_ms": remaining_ms}
                body = msgpack.packb({"queries": [asked.question]})
                self._dealer.send_multipart([b"RP1", b"REQUEST", identity, msgpack.packb(header), body])
                asked.sent = True
                out += 1

    def _receive(self) -> None:
        while True:
            try:
                frames = self._dealer.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            self._heard = time.monotonic()
            kind, identity, header = frames[1], frames[2], msgpack.unpackb(frames[3])
            if kind == b"WELCOME" and self._epoch is None:
                self._epoch, self._window = header["epoch"], header["window"]
            elif self._epoch is not None and (
                kind == b"UNKNOWN" or (kind in (b"WELCOME", b"PING", b"PONG") and header["epoch"] != self._epoch)
            ):
                self._connect()
                return
            elif kind in (b"REPLY", b"ERROR"):
                self._take(kind, identity, header, frames[4])

    def _take(self, kind: bytes, identity: bytes, header: dict[str, Any], body: bytes) -> None:
        asked = self._asked.get(identity)
        if asked is None:
            again = self._answered[identity]
            if again.given_up:  # we told it ourselves that its time was over
                return
            self._told(again.number, again.began, again.question, "answered again", [])
        elif kind == b"ERROR" and header["code"] == "overloaded":
            asked.sent, asked.send_at = False, time.monotonic() + header.get("retry_after_ms", 0) / 1e3 + 0.01
        elif kind == b"ERROR":
            self._answer(identity, header["code"], [])
        elif (ids := _ids(body)) is not None:
            self._answer(identity, "", ids)
        else:  # a worker's garbage that the broker, which reads no bodies, passed on: asked again, under a new id
            self._answered[identity] = asked = self._asked.pop(identity)
            send_at = time.monotonic() + GARBLED_PAUSE_S
            self._asked[os.urandom(16)] = Asked(asked.number, asked.question, asked.began, asked.deadline, send_at)

    def _answer(self, identity: bytes, code: str, ids: list[str]) -> None:
        self._answered[identity] = asked = self._asked.pop(identity)
        self._told(asked.number, asked.began, asked.question, code, ids)

    def _connect(self) -> None:
        if self._dealer is not None:
            self._dealer.close(linger=0)
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.setsockopt(zmq.LINGER, 0)
        self._dealer.connect(self._url)
        self._dealer.send_multipart([b"RP1", b"HELLO", b"", msgpack.packb({"client": "raw"}), b""])
        self._epoch = None
        self._heard = self._pinged = time.monotonic()
        for asked in self._asked.values():
            asked.sent = False


def _ids(body: bytes) -> list[str] | None:
    """The ids of the one result in `body`; None where it is no such thing."""
    try:
        (result,) = msgpack.unpackb(body)["results"]
        return [passage["id"] for passage in result["passages"]]
    except Exception:  # whatever garbage raises
        return None
