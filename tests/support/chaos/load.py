"""One client process under the faults: it asks at a steady rate and writes down each answer. `python -m chaos.load --style ...`.

It never decides what an answer is worth beyond right or wrong. A line of its file is one request, or one answer too many:
{"at": seconds since 1970, "took": seconds, "end": "right" | "wrong" | code of the error} or {"at": ..., "end": "twice"}.
SIGTERM: it asks no more, waits for what is unanswered, and ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from ragpool.client import AsyncClient, Client, RagpoolError

from .raw import RawClient

TIMEOUT_S = 120.0
UNANSWERED_MAX = 400
"""A client that waits for so many asks no more until some are answered."""
BULK = 24


class Ledger:
    """What this client was told, a line each. Thread-safe."""

    def __init__(self, path: Path, expected: dict[str, list[str]]) -> None:
        self._file = path.open("w", buffering=1)
        self._expected = expected
        self._lock = threading.Lock()
        self.asked = 0
        self.answered: set[int] = set()

    def ask(self) -> int:
        with self._lock:
            self.asked += 1
            return self.asked

    @property
    def unanswered(self) -> int:
        return self.asked - len(self.answered)

    def verdict(self, questions: list[str], ids: list[list[str]]) -> str:
        return "right" if ids == [self._expected[question] for question in questions] else "wrong"

    def note(self, number: int, began: float, end: str) -> None:
        with self._lock:
            if number in self.answered:
                self._file.write(json.dumps({"at": time.time(), "end": "twice"}) + "\n")
                return
            self.answered.add(number)
            self._file.write(json.dumps({"at": began, "took": round(time.time() - began, 4), "end": end}) + "\n")


class Pace:
    """Whether it is time for the next question. Ends with SIGTERM."""

    def __init__(self, rate: float, ledger: Ledger) -> None:
        self._interval = 1.0 / rate
        self._ledger = ledger
        self._next = time.monotonic()
        self.stopped = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, number: int, frame: object) -> None:
        self.stopped = True

    def is_due(self) -> bool:
        now = time.monotonic()
        if self.stopped or now < self._next or self._ledger.unanswered >= UNANSWERED_MAX:
            return False
        self._next = max(self._next + self._interval, now - 1.0)
        return True

    @property
    def over(self) -> bool:
        return self.stopped and not self._ledger.unanswered


def code_of(error: BaseException) -> str:
    return error.code if isinstance(error, RagpoolError) else type(error).__name__


def futures(url: str, ledger: Ledger, pace: Pace, pick: Callable[[], str]) -> None:
    """`Client.submit`, each future's resolutions counted."""
    with Client(url, timeout=TIMEOUT_S, connect_timeout=TIMEOUT_S) as client:
        while not pace.over:
            if pace.is_due():
                question, number, began = pick(), ledger.ask(), time.time()

                def told(done: Any, question: str = question, number: int = number, began: float = began) -> None:
                    error = done.exception()
                    end = code_of(error) if error else ledger.verdict([question], [[hit.id for hit in done.result()]])
                    ledger.note(number, began, end)

                client.submit(question, top_k=5).add_done_callback(told)
            time.sleep(0.005)


def bulk(url: str, ledger: Ledger, pace: Pace, pick: Callable[[], str]) -> None:
    """`Client.search_many`, one call of `BULK` questions counting as one request; calls overlap."""

    def call(client: Client) -> None:
        asked, number, began = [pick() for _ in range(BULK)], ledger.ask(), time.time()
        try:
            end = ledger.verdict(asked, [[hit.id for hit in hits] for hits in client.search_many(asked, top_k=5)])
        except Exception as error:  # whatever came instead of an answer is the finding
            end = code_of(error)
        ledger.note(number, began, end)

    with Client(url, timeout=TIMEOUT_S, connect_timeout=TIMEOUT_S) as client:
        while not pace.over:
            if pace.is_due():
                threading.Thread(target=call, args=(client,)).start()
            time.sleep(0.02)


def tasks(url: str, ledger: Ledger, pace: Pace, pick: Callable[[], str]) -> None:
    """`AsyncClient.search`."""

    async def ask(client: AsyncClient) -> None:
        question, number, began = pick(), ledger.ask(), time.time()
        try:
            end = ledger.verdict([question], [[hit.id for hit in await client.search(question, top_k=5)]])
        except Exception as error:
            end = code_of(error)
        ledger.note(number, began, end)

    async def run() -> None:
        running = set()
        async with AsyncClient(url, timeout=TIMEOUT_S, connect_timeout=TIMEOUT_S) as client:
            while not pace.over:
                if pace.is_due():
                    running.add(task := asyncio.create_task(ask(client)))
                    task.add_done_callback(running.discard)
                await asyncio.sleep(0.005)

    asyncio.run(run())


def raw(url: str, ledger: Ledger, pace: Pace, pick: Callable[[], str]) -> None:
    """The wire itself: every second answer to an id is seen here, whatever a client library would have hidden."""

    def told(number: int, began: float, question: str, end: str, ids: list[str]) -> None:
        ledger.note(number, began, end or ledger.verdict([question], [ids]))

    with RawClient(url, TIMEOUT_S, told) as client:
        while not pace.over:
            while pace.is_due():
                client.ask(pick(), ledger.ask())
            client.turn(0.005)


STYLES = {"futures": futures, "bulk": bulk, "tasks": tasks, "raw": raw}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--style", choices=STYLES, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--expected", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seed", type=int, required=True)
    given = parser.parse_args()
    expected = json.loads(given.expected.read_text())
    ledger, rng, asked = Ledger(given.out, expected), Random(given.seed), list(expected)
    STYLES[given.style](given.url, ledger, Pace(given.rate, ledger), lambda: rng.choice(asked))


if __name__ == "__main__":
    main()
