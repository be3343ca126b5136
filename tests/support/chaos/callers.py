"""Those who ask: client processes under constant load, and questions of the faults themselves. What they were told is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from random import Random
from typing import Any

from ragpool.client import Client

from .load import Ledger, code_of

SUPPORT = Path(__file__).resolve().parents[1]
MARK = "RAGPOOL_CHAOS"
STYLES = (("futures", 6.0), ("futures", 4.0), ("tasks", 6.0), ("raw", 6.0), ("bulk", 0.25))
"""Clients under constant load, each a process: style and requests a second. The second one comes through the proxy."""
THROUGH_PROXY = 1
STOP_S = 150.0
"""Longer than any request may wait."""


class Callers:
    """`rate`: times the usual load. `mark` stands in the environment of each process."""

    def __init__(self, folder: Path, expected: Path, mark: str, url: str, proxied_url: str, rate: float, rng: Random) -> None:
        self.loads: list[subprocess.Popen[bytes]] = []
        self._folder = folder
        self._expected = expected
        self._mark = mark
        self._urls = (url, proxied_url)
        self._rate = rate
        self._rng = rng
        self._answers = json.loads(expected.read_text())
        self._own = Ledger(folder / "answers-own.jsonl", self._answers)

    def start(self) -> None:
        """The constant load."""
        for number, (style, rate) in enumerate(STYLES):
            url = self._urls[number == THROUGH_PROXY]
            self.loads.append(self.start_one(style, rate * self._rate, self._folder / f"answers-{number}.jsonl", url))

    def start_one(self, style: str, rate: float, out: Path, url: str = "") -> subprocess.Popen[bytes]:
        """One client process, whose answers go to `out`; they count where that is one of `answers-*.jsonl`."""
        command = [sys.executable, "-m", "chaos.load", "--style", style, "--url", url or self._urls[0], "--out", str(out)]
        command += ["--expected", str(self._expected), "--rate", str(rate), "--seed", str(self._rng.randrange(1 << 30))]
        environment = {**os.environ, MARK: self._mark, "PYTHONPATH": str(SUPPORT)}
        with (self._folder / "clients.log").open("a") as log:
            return subprocess.Popen(command, stderr=log, env=environment, start_new_session=True)

    def ask(self, client: Client, rng: Random) -> Future[Any]:
        """One question of a fault's own, whose answer counts like all others."""
        question, number, began = rng.choice(list(self._answers)), self._own.ask(), time.time()

        def told(done: Future[Any]) -> None:
            error = done.exception()
            end = code_of(error) if error else self._own.verdict([question], [[hit.id for hit in done.result()]])
            self._own.note(number, began, end)

        future = client.submit(question, top_k=5)
        future.add_done_callback(told)
        return future

    def stop(self) -> list[str]:
        """Wait for the last answers. What went wrong with the clients themselves."""
        for load in self.loads:
            load.terminate()
        wrong = []
        for load in self.loads:
            try:
                if load.wait(STOP_S) != 0:
                    wrong.append(f"a client ended with {load.returncode}: {self._last_words()}")
            except subprocess.TimeoutExpired:
                load.kill()
                wrong.append("a client waits for ever")
        return wrong

    def _last_words(self) -> str:
        return (self._folder / "clients.log").read_text()[-500:]

    def answers(self) -> list[dict[str, Any]]:
        """All that was written down."""
        lines = [line for path in self._folder.glob("answers-*.jsonl") for line in path.read_text().splitlines()]
        return [json.loads(line) for line in lines]
