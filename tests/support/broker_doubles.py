"""Brokers that misbehave in one way each: a real ROUTER in a thread, so that real clients can be tried against it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import zmq
from ragpool.wire import bodies, codec, messages
from ragpool.wire.errors import RagpoolError
from ragpool.wire.messages import FROM_CLIENT, Failure, Record, Reply, Request

T = TypeVar("T")


def wait_for(condition: Callable[[], T], seconds: float = 10.0, what: str = "") -> T:
    """The first true value of `condition`; fails after `seconds`."""
    give_up = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        assert time.monotonic() < give_up, f"waited {seconds} s for {what or condition}"
        time.sleep(0.002)


def passage(identity: str) -> dict[str, object]:
    return {"id": identity, "title": f"title of {identity}", "text": f"text of {identity}", "metadata": {"n": 1}}


def true_reply(request: Request) -> Reply:
    """What a pool would say whose passages are the queries themselves: top_k hits, the first named as the query."""
    fields = codec.unpack(request.body)
    if request.op == messages.SEARCH:
        results = [[passage(q if not i else f"{q}/{i}") for i in range(request.top_k)] for q in fields["queries"]]
    elif request.op == messages.SEARCH_VECTOR:
        results = [[passage(f"{fields['dim']}/{i}") for i in range(request.top_k)] for _ in range(request.items)]
    elif request.op == messages.EMBED:
        row = codec.struct.pack("<2f", 1.0, 2.0 if fields["kind"] == "query" else 3.0)
        return Reply(request.id, body=bodies.vectors_body(row * request.items, 2))
    elif request.op == messages.FETCH:
        return Reply(request.id, body=bodies.passages_body([codec.pack(passage(i)) for i in fields["ids"]]))
    else:
        return Reply(request.id, body=codec.pack({"broker": {"state": "serving"}}))
    raw = [bodies.RawHits([1.0 / (i + 1) for i in range(len(row))], [codec.pack(p) for p in row]) for row in results]
    return Reply(request.id, 7, "v1", {"queue": 0.5, "encode": 1.5}, (0,), bodies.results_body(raw))


class EchoBroker:
    """Answers everything, at once and truly. `seen` lists every record of every client in order."""

    limits = messages.Limits()
    window = 64
    address = "tcp://127.0.0.1:*"

    def __init__(self, address: str | None = None, epoch: str = "epoch-1") -> None:
        self.epoch = epoch
        self.seen: list[Record] = []
        self.messages = 0
        self.known: set[bytes] = set()
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        self._bind(address or self.address)
        self.url = self._router.get_string(zmq.LAST_ENDPOINT)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _bind(self, address: str) -> None:
        give_up = time.monotonic() + 5
        while True:
            try:
                self._router.bind(address)
                return
            except zmq.ZMQError:  # the port of a broker that ended a moment ago
                assert time.monotonic() < give_up
                time.sleep(0.01)

    def __enter__(self) -> EchoBroker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(5)
        self._context.destroy(linger=0)

    def of(self, kind: type[T]) -> list[T]:
        return [record for record in list(self.seen) if isinstance(record, kind)]

    def _serve(self) -> None:
        while not self._stopping.is_set():
            if not self._router.poll(5):
                self.idle()
                continue
            peer, *frames = self._router.recv_multipart()
            self.messages += 1
            for record in codec.decode(frames, FROM_CLIENT):
                self.seen.append(record)  # type: ignore[arg-type]
                for answer in self.react(peer, record):  # type: ignore[arg-type]
                    self.send(peer, codec.encode(answer))

    def send(self, peer: bytes, frames: list[bytes]) -> None:
        self._router.send_multipart([peer, *frames])

    def idle(self) -> None:
        """Nothing came for a moment."""

    def react(self, peer: bytes, record: Record) -> list[Record]:
        if isinstance(record, messages.Hello):
            self.known.add(peer)
            return self.greet()
        if peer not in self.known:
            return [messages.Unknown()]
        if isinstance(record, messages.Ping):
            return [messages.Pong(self.epoch)]
        return self.answer(record) if isinstance(record, Request) else []

    def greet(self) -> list[Record]:
        return [messages.Welcome(self.epoch, "double", self.limits, default_top_k=3, window=self.window)]

    def answer(self, request: Request) -> list[Record]:
        return [true_reply(request)]


class MuteBroker(EchoBroker):
    """Somebody listens at that address, but never says a word."""

    def react(self, peer: bytes, record: Record) -> list[Record]:
        return []


class DroppingBroker(EchoBroker):
    """Welcomes, answers pings, and loses every request."""

    def answer(self, request: Request) -> list[Record]:
        return []


class RepeatingBroker(EchoBroker):
    """Answers everything twice."""

    def answer(self, request: Request) -> list[Record]:
        return [true_reply(request), true_reply(request)]


class BusyBroker(EchoBroker):
    """Refuses each request twice before it takes it."""

    retry_after_ms = 20

    def answer(self, request: Request) -> list[Record]:
        times = sum(seen.id == request.id for seen in self.of(Request))
        if times > 2:
            return [true_reply(request)]
        return [Failure(request.id, "overloaded", "the queue is full", self.retry_after_ms)]


class FullBroker(EchoBroker):
    """Has room in a minute at the earliest."""

    def answer(self, request: Request) -> list[Record]:
        return [Failure(request.id, "overloaded", "the queue is full", 60_000)]


class RefusingBroker(EchoBroker):
    """Fails requests whose body holds `trigger` with an error of choice."""

    trigger = b"poison"
    code = "poison_request"
    message = "it ended a worker that ran nothing else"

    def answer(self, request: Request) -> list[Record]:
        if self.trigger in request.body:
            return [Failure(request.id, self.code, self.message)]
        return [true_reply(request)]


class ForgetfulBroker(EchoBroker):
    """Forgets a client in the moment of its first request, once."""

    forgot = False

    def react(self, peer: bytes, record: Record) -> list[Record]:
        if isinstance(record, Request) and not self.forgot:
            self.forgot = True
            self.known.discard(peer)
        return super().react(peer, record)


class OtherVersionBroker(EchoBroker):
    """Speaks another version of the protocol."""

    def react(self, peer: bytes, record: Record) -> list[Record]:
        return [Failure(b"", "version_mismatch", "this broker speaks RP9")]


class NarrowBroker(EchoBroker):
    """Refuses replies of more than two queries as too large."""

    def answer(self, request: Request) -> list[Record]:
        if request.items > 2:
            return [Failure(request.id, "too_large", "the reply has 9000000 bytes, the limit is 8388608")]
        return [true_reply(request)]


class GarbledBroker(EchoBroker):
    """Answers with a body that is no answer."""

    def answer(self, request: Request) -> list[Record]:
        return [Reply(request.id, body=b"\xc1\xff")]


class LateBroker(EchoBroker):
    """Answers when it is let: until then it keeps what it owes."""

    def __init__(self, address: str | None = None, epoch: str = "epoch-1") -> None:
        self.released = threading.Event()
        self._owed: list[tuple[bytes, Request]] = []
        super().__init__(address, epoch)

    def react(self, peer: bytes, record: Record) -> list[Record]:
        if isinstance(record, Request) and peer in self.known and not self.released.is_set():
            self._owed.append((peer, record))
            return []
        return super().react(peer, record)

    def idle(self) -> None:
        while self.released.is_set() and self._owed:
            peer, request = self._owed.pop(0)
            self.send(peer, codec.encode(true_reply(request)))


def code_of(error: BaseException | None) -> str:
    return error.code if isinstance(error, RagpoolError) else repr(error)
