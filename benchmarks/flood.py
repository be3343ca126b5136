"""One client floods the pool; does another still get its answers at once? Real sockets, workers that take 20 ms a batch.

The flood keeps its share of the queue full and has 10,000 more searches waiting in its own process (`ragpool.client.Client`). A
rude one beside it ignores its window and is told BUSY. The interactive sessions ask one search at a time. Wanted: their p99
within four batch times, and no BUSY of theirs. Bounded by --seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from baselines.stats import percentile
from bench_parts import Service, broker
from ragpool.client import Client
from ragpool.wire import bodies, codec, messages
from ragpool.wire.errors import Overloaded
from ragpool.wire.messages import TO_CLIENT, Failure, Reply

WAITING = 10_000
WINDOW = 1024
"""What a broker with the default queue allows one session."""

RUDE = 1500
RUDE_PAUSE_S = 1.0
BATCHES_WANTED = 4
PAUSE_S = 0.01


# ---- the flood, in a process of its own ----------------------------------------------------------------------------


def flood(frontend: str, seconds: float) -> None:
    """Keep `WAITING` searches beyond the window; prints what came of them as JSON."""
    answered, failed = 0, 0
    room = threading.Semaphore(WAITING + WINDOW)
    until = time.monotonic() + seconds
    with Client(frontend) as client:
        futures = []
        while time.monotonic() < until:
            if not room.acquire(timeout=0.1):
                continue
            future = client.submit("a search of the flood", 1)
            future.add_done_callback(lambda _: room.release())
            futures.append(future)
            if len(futures) > 4 * WAITING:
                answered, failed, futures = _counted(futures, answered, failed)
        answered, failed, futures = _counted(futures, answered, failed)
        print(json.dumps({"answered": answered, "failed": failed, "waiting": len(futures)}), flush=True)
        for future in futures:
            future.cancel()


def _counted(futures: list, answered: int, failed: int) -> tuple[int, int, list]:  # type: ignore[type-arg]
    done = [future for future in futures if future.done()]
    bad = sum(future.exception() is not None for future in done)
    return answered + len(done) - bad, failed + bad, [future for future in futures if not future.done()]


# ---- those who ask meanwhile ---------------------------------------------------------------------------------------


@dataclass
class Session:
    """One raw session. `busy` counts what was refused, `bad` what was answered wrongly."""

    service: Service
    name: str
    latencies: list[float] = field(default_factory=list)
    busy: int = 0
    bad: int = 0
    sent: dict[bytes, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(self.service.frontend)
        self.socket.send_multipart(codec.encode(messages.Hello(self.name)))
        self._number = 0
        self._body = bodies.search_body([f"a search of {self.name}"])

    def ask(self) -> None:
        self._number += 1
        # two sessions never use one id: the broker would take it for the same request
        identity = self.name.encode().ljust(8)[:8] + self._number.to_bytes(8, "big")
        request = messages.Request(identity, messages.SEARCH, 1, 1, body=self._body)
        self.sent[request.id] = time.monotonic()
        self.socket.send_multipart(codec.encode(request))

    def take(self) -> None:
        """All that came."""
        while True:
            try:
                records = codec.decode(self.socket.recv_multipart(zmq.NOBLOCK), TO_CLIENT)
            except zmq.Again:
                return
            for record in records:
                self._judge(record)

    def _judge(self, record: object) -> None:
        if isinstance(record, Reply):
            self.latencies.append(time.monotonic() - self.sent.pop(record.id))
            self.bad += len(bodies.decode_results(record.body)) != 1
        elif isinstance(record, Failure):
            self.sent.pop(record.id, None)
            self.busy += record.code == Overloaded.code
            self.bad += record.code != Overloaded.code


def interact(sessions: list[Session], rude: Session | None, seconds: float) -> None:
    """Each session asks again `PAUSE_S` after its answer; the rude one fills up once a second."""
    poller = zmq.Poller()
    for session in (*sessions, *([rude] if rude else [])):
        poller.register(session.socket, zmq.POLLIN)
    ask_at = dict.fromkeys(range(len(sessions)), time.monotonic())
    rude_at, until = time.monotonic(), time.monotonic() + seconds
    while (now := time.monotonic()) < until:
        for number, session in enumerate(sessions):
            if not session.sent and now >= ask_at[number]:
                session.ask()
        if rude and now >= rude_at:
            rude_at = now + RUDE_PAUSE_S
            while len(rude.sent) < RUDE:
                rude.ask()
        poller.poll(5)
        for number, session in enumerate(sessions):
            session.take()
            if session.sent:
                ask_at[number] = time.monotonic() + PAUSE_S
        if rude:
            rude.take()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--batch-ms", type=float, default=20.0)
    parser.add_argument("--sessions", type=int, default=4, help="interactive sessions")
    parser.add_argument("--polite", action="store_true", help="without the rude client")
    parser.add_argument("--flood", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.flood:
        flood(options.flood, options.seconds)
        return
    worker = ("--max-batch", str(options.max_batch), "--batch-ms", str(options.batch_ms), "--answer", "search")
    with broker(options.workers, *worker) as service:
        command = [sys.executable, str(Path(__file__)), "--flood", service.frontend, "--seconds", str(options.seconds + 4)]
        bulk = subprocess.Popen(command, stdout=subprocess.PIPE)
        time.sleep(3)  # until its window is full
        depth = service.status()["broker"]["queue_depth"]
        sessions = [Session(service, f"asker{n}") for n in range(options.sessions)]
        rude = None if options.polite else Session(service, "rude")
        interact(sessions, rude, options.seconds)
        told = json.loads(bulk.communicate(timeout=60)[0])
    seen = [latency for session in sessions for latency in session.latencies]
    limit_ms = BATCHES_WANTED * options.batch_ms
    p99_ms = percentile(seen, 0.99) * 1e3
    busy, bad = sum(s.busy for s in sessions), sum(s.bad for s in sessions)
    print(f"flood: {told['answered']:,} answered, {told['failed']} failed, {told['waiting']:,} waiting; {depth} queued before")
    if rude:
        print(f"rude: {len(rude.latencies):,} answered, {rude.busy:,} told BUSY, {rude.bad} wrong")
    print(
        f"interactive: {len(seen)} answers, p50 {percentile(seen, 0.5) * 1e3:.1f} ms, max {max(seen) * 1e3:.1f} ms, {bad} wrong"
    )
    print(f"flood p99 {p99_ms:.1f} ms of {limit_ms:g} wanted, {busy} BUSY")


if __name__ == "__main__":
    main()
