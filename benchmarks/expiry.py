"""How late does the broker say that a deadline has passed, with every worker stopped?

A real broker, its null workers under SIGSTOP, and requests whose deadlines lie anywhere within the next seconds. Lateness is
seen by the client: from the moment the request was due, counted from just before it was sent, to the moment its error was
read; so the way there and back is in it. Wanted: p99 within 20 ms, and a broker that sleeps in between.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from random import Random

import zmq
from baselines.processes import cpu_s
from baselines.stats import percentile
from bench_parts import STALLED_S, Service, broker
from ragpool.wire import bodies, codec, messages
from ragpool.wire.errors import DeadlineExceeded
from ragpool.wire.messages import TO_CLIENT, Failure, Request

SOONEST_S = 1.0
"""Later than all were sent: nobody reads before."""
WANTED_MS = 20.0
TOGETHER, PAUSE_S = 5, 0.002


def lateness(service: Service, count: int, within_s: float, rng: Random) -> tuple[list[float], int]:
    """Seconds late of each of `count` deadlines, and how many answers were anything but DeadlineExceeded."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(service.frontend)
    socket.send_multipart(codec.encode(messages.Hello("expiry")))
    socket.recv_multipart()
    body = bodies.search_body(["a search that nobody will run"])
    due: dict[bytes, float] = {}
    for number in range(count):
        if number % TOGETHER == 0:
            time.sleep(PAUSE_S)  # a burst would measure how long the broker takes to read it
        remaining_ms = rng.randint(round(SOONEST_S * 1e3), round(within_s * 1e3))
        request = Request(rng.randbytes(16), messages.SEARCH, 1, 5, remaining_ms, body=body)
        due[request.id] = time.monotonic() + remaining_ms / 1e3
        socket.send_multipart(codec.encode(request))
    late, wrong = [], 0
    while due:
        if not socket.poll(int((within_s + STALLED_S) * 1e3)):
            raise RuntimeError(f"{len(due)} requests were never answered")
        records = codec.decode(socket.recv_multipart(), TO_CLIENT)
        now = time.monotonic()
        for record in records:
            if isinstance(record, Failure) and record.code == DeadlineExceeded.code:
                late.append(now - due.pop(record.id))
            elif not isinstance(record, messages.Ping):
                wrong += 1
                due.pop(getattr(record, "id", b""), None)
    socket.close()
    return late, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=800, help="at once; within what one session may have waiting [800]")
    parser.add_argument("--within-s", type=float, default=2.5, help="the last deadline; before workers turn suspect [2.5]")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng, late, wrong, used, took = Random(options.seed), [], 0, 0.0, 0.0
    for _ in range(options.rounds):
        with broker(2) as service:
            for worker in service.workers:
                os.kill(worker.pid, signal.SIGSTOP)
            began, cpu = time.monotonic(), cpu_s(service.pid)
            more, others = lateness(service, options.requests, options.within_s, rng)
            took, used = took + time.monotonic() - began, used + cpu_s(service.pid) - cpu
            late, wrong = late + more, wrong + others
            for worker in service.workers:
                os.kill(worker.pid, signal.SIGCONT)
    p50_ms, p99_ms, most_ms = (percentile(late, share) * 1e3 for share in (0.5, 0.99, 1.0))
    early_ms = max(0.0, -min(late) * 1e3)
    print(f"{len(late):,} deadlines passed: late by p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms, at most {most_ms:.1f} ms")
    print(f"earliest: {early_ms:.1f} ms before it was due")
    print(f"the broker used {used / took:.1%} of a core meanwhile, {used / max(1, len(late)) * 1e6:.0f} us a request")
    verdict = "ok" if p99_ms <= WANTED_MS and not wrong else f"wanted: p99 within {WANTED_MS:g} ms, none wrong"
    print(f"expiry p99 {p99_ms:.1f} ms, {wrong} wrong: {verdict}")


if __name__ == "__main__":
    main()
