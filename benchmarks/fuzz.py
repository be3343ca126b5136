"""A running broker under messages of every wrong kind, while it serves.

Forged clients and workers send, over sessions that come and go; a worker among them answers rightly, but twice, and lies in its
heartbeats. Honest clients ask all the while and check every answer. Wanted: the broker neither ends nor writes an exception,
every honest answer is right, and its memory does not grow. Bounded by --frames messages.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter, deque
from random import Random
from typing import IO

import zmq
from baselines.stats import percentile
from bench_parts import STALLED_S, Service, broker, descriptors, rss_kib
from fuzz_frames import CATEGORIES, CLIENT, ENVELOPE, WORKER, Forger
from ragpool.wire import codec, messages
from ragpool.wire.messages import TO_CLIENT, Failure, Heartbeat, Hello, Register, Reply, Request

BURST = 100
"""Forged messages between two rounds of honest questions."""

SETTINGS = {"limits": {"frame_max_bytes": 64 * 1024, "query_max_bytes": 32 * 1024}}
WALL = 3 * 64 * 1024
"""A frame that is so long ends the connection."""

RENEW = 400
"""Messages after which a forged session is closed, without a word, and another takes its place."""


def dealer(address: str) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    socket.set_hwm(0)
    socket.linger = 0
    socket.connect(address)
    return socket


def swallow(socket: zmq.Socket[bytes]) -> int:
    """Throw away all that came."""
    count = 0
    while True:
        try:
            socket.recv_multipart(zmq.NOBLOCK)
            count += 1
        except zmq.Again:
            return count


class Forged:
    """One forged session, renewed now and then."""

    def __init__(self, side: str, address: str, rng: Random, name: str, ids: deque[bytes]) -> None:
        self._side, self._address, self._rng, self._name = side, address, rng, name
        self._left = 0
        self._socket: zmq.Socket[bytes] | None = None
        self._forger = Forger(side, rng, name, ids)

    def send(self) -> str:
        """One message; what was wrong with it."""
        if self._left == 0 or self._socket is None:
            self.close()
            self._socket = dealer(self._address)
            self._left = self._rng.randint(1, 2 * RENEW)
            if self._side == CLIENT and self._rng.random() < 0.8:
                self._socket.send_multipart(codec.encode(Hello(self._name, 8)))
        self._left -= 1
        frames, category = self._forger.make()
        if self._rng.random() < 0.0002:
            frames, category = [*frames, bytes(WALL)], ENVELOPE
        self._socket.send_multipart(frames)
        if self._rng.random() < 0.9:
            swallow(self._socket)
        return category

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


class Noisy:
    """A worker that answers everything rightly, twice, in any order, and says in its heartbeats that it holds nothing."""

    def __init__(self, address: str, rng: Random) -> None:
        self._rng = rng
        self._socket = dealer(address)
        self._register()

    def pump(self) -> None:
        answers: list[messages.Record] = []
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            if frames[1] == b"REQUEST":
                found = [r for r in codec.decode(frames, (b"REQUEST",)) if isinstance(r, Request)]
                answers += [Reply(request.id, body=request.body) for request in found]
            elif frames[1] == b"UNKNOWN":
                self._register()
        if self._rng.random() < 0.05:
            self._socket.send_multipart(codec.encode(Heartbeat("ready", self._rng.choice((0, 10**6)))))
        answers *= 2
        self._rng.shuffle(answers)
        if answers:
            self._socket.send_multipart(codec.encode_many(answers))

    def _register(self) -> None:
        self._socket.send_multipart(codec.encode(Register("noisy", "ready", "host", 1, max_batch=4, dtype="float32")))


class Honest:
    """Asks, and holds every answer against the question: its workers give the body back."""

    def __init__(self, service: Service, rng: Random) -> None:
        self._service, self._rng = service, rng
        self._socket = dealer(service.frontend)
        self._socket.send_multipart(codec.encode(Hello("honest", 8)))
        self.latencies: list[float] = []
        self.wrong: Counter[str] = Counter()

    def ask(self, count: int, noisy: Noisy) -> bool:
        """`count` questions at once; False where the broker does not answer any more."""
        asked = {self._rng.randbytes(16): self._rng.randbytes(30) for _ in range(count)}
        began = time.monotonic()
        requests = [Request(identity, "search", 1, 5, 60_000, 5, body=body) for identity, body in asked.items()]
        self._socket.send_multipart(codec.encode_many(requests))
        while asked:
            noisy.pump()
            if not self._socket.poll(20):
                if self._service.process.poll() is not None or time.monotonic() > began + STALLED_S:
                    return False
                continue
            for record in codec.decode(self._socket.recv_multipart(), TO_CLIENT):
                self._judge(record, asked, began)
        return True

    def _judge(self, record: object, asked: dict[bytes, bytes], began: float) -> None:
        if isinstance(record, Reply):
            self.latencies.append(time.monotonic() - began)
            body = asked.pop(record.id, None)
            if body != record.body:
                self.wrong["not the answer" if body else "not asked"] += 1
        elif isinstance(record, Failure):
            asked.pop(record.id, None)
            self.wrong[f"{record.code}: {record.message[:60]}"] += 1


def answers(service: Service) -> bool:
    """Whether the broker tells its status: what it was sent must not keep it from that."""
    try:
        return bool(service.status())
    except RuntimeError:
        return False


def fuzz(service: Service, frames: int, rng: Random) -> tuple[Counter[str], Honest, list[int]]:
    """Until `frames` messages were sent or the broker is gone: what was sent, the honest client, RSS each twentieth."""
    ids: deque[bytes] = deque(maxlen=256)
    forged = [Forged(CLIENT, service.frontend, rng, f"client{n}", ids) for n in range(4)]
    forged += [Forged(WORKER, service.backend, rng, f"worker{n}", ids) for n in range(3)]
    noisy, honest = Noisy(service.backend, rng), Honest(service, rng)
    sent: Counter[str] = Counter()
    memory: list[int] = []
    while sum(sent.values()) < frames:
        for _ in range(BURST):
            sent[rng.choice(forged).send()] += 1
        noisy.pump()
        if not honest.ask(rng.randint(1, 8), noisy):
            break
        if sum(sent.values()) % (10 * BURST) == 0 and not answers(service):
            break
        if sum(sent.values()) >= len(memory) * frames / 20:
            memory.append(rss_kib(service.pid))
    for one in forged:
        one.close()
    return sent, honest, memory


def report(service: Service, sent: Counter[str], honest: Honest, memory: list[int], errors: IO[bytes], frames: int) -> None:
    time.sleep(2.0)
    ended = service.process.poll()
    errors.seek(0)
    written = errors.read().decode(errors="replace").strip()
    total, wrong = sum(sent.values()), sum(honest.wrong.values())
    p50_ms, p99_ms = (percentile(honest.latencies, share) * 1e3 for share in (0.5, 0.99))
    print(", ".join(f"{sent[c]:,} {c}" for c in CATEGORIES))
    print(f"{1 - sent[ENVELOPE] / max(1, total):.0%} right as far as the header")
    print(f"honest: {len(honest.latencies):,} answers, {wrong} wrong, p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms")
    for what, count in honest.wrong.most_common(5):
        print(f"  {count} x {what}")
    if ended is None:
        known, files = service.status()["broker"], descriptors(service.pid)
        print(f"broker: {known['clients']} sessions, {known['queue_depth']} queued, {files} files at the end")
        print("rss KiB, each twentieth:", " ".join(f"{kib:,}" for kib in memory))
    if written:
        print("\n".join(written.splitlines()[-12:]))
    half = memory[len(memory) // 2 :]
    growth = (half[-1] - half[0]) if half else 0
    alive = "alive" if ended is None else f"ended with {ended}"
    print(f"fuzz {total:,} of {frames:,}: broker {alive}, {wrong} wrong, {growth:+,} KiB in the second half")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000, help="messages to send [100000]")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryFile() as errors:
        workers = ("--answer", "echo", "--max-batch", "32")
        with broker(2, *workers, settings=SETTINGS, stderr=errors) as service:
            sent, honest, memory = fuzz(service, options.frames, Random(options.seed))
            report(service, sent, honest, memory, errors, options.frames)


if __name__ == "__main__":
    main()
