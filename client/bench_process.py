"""Generators in processes of their own, where one is not enough, and the child that each of them runs.

A child reads its job as one line of JSON from stdin, says `ready`, begins at the clock reading it is then told, and writes what
it took as one line. End of input ends it early, so that none outlives its parent. The monotonic clock is one for a whole machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import IO

from .bench_generator import Job, generate
from .bench_records import Records, Taken, merged

HEAD_START_S = 0.1
"""Between the word to begin and the beginning, so that all begin at once."""


class LoadFailed(Exception):
    """A generator process ended without a result; the sentence says how."""


class Processes:
    """One run spread over children. `stop` ends it early, from a signal handler too."""

    def __init__(self, jobs: list[Job]) -> None:
        self._children = [_spawn() for _ in jobs]
        self._jobs = jobs
        self._stopped = False

    def run(self) -> Taken:
        """What all of them took. Raises `LoadFailed`, and `KeyboardInterrupt` when stopped before anything began."""
        try:
            for child, job in zip(self._children, self._jobs, strict=True):
                _tell(child, json.dumps(asdict(job)))
            for child in self._children:
                _heard(child)
            began = time.monotonic() + HEAD_START_S
            for child in self._children:
                _tell(child, repr(began))
            return merged([_taken(_heard(child)) for child in self._children])
        except LoadFailed:
            if self._stopped:
                raise KeyboardInterrupt from None
            raise
        finally:
            self._end()

    def stop(self) -> None:
        self._stopped = True
        for child in self._children:
            if child.stdin is not None:
                with contextlib.suppress(OSError):  # it is gone, with a line of ours unread
                    child.stdin.close()

    def _end(self) -> None:
        self.stop()
        for child in self._children:
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            if child.stdout is not None:
                child.stdout.close()


def _spawn() -> subprocess.Popen[str]:
    # a session of its own: Ctrl-C is for the parent, which then asks for what was measured
    command = [sys.executable, "-m", __name__]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


def _tell(child: subprocess.Popen[str], line: str) -> None:
    try:
        if child.stdin is not None:
            child.stdin.write(line + "\n")
            child.stdin.flush()
    except (BrokenPipeError, ValueError):  # it ended, or was stopped: reading it says so
        return


def _heard(child: subprocess.Popen[str]) -> str:
    line = child.stdout.readline() if child.stdout is not None else ""
    if not line:
        raise LoadFailed(f"a generator process ended without a result (exit code {child.wait()})")
    return line


def _taken(line: str) -> Taken:
    told = json.loads(line)
    return Taken(**{**told, "records": Records.from_json(told["records"])})


# ---- the child ------------------------------------------------------------------------------------------------------------


def main() -> None:
    job = Job(**json.loads(sys.stdin.readline()))
    _say("ready")
    began = sys.stdin.readline()
    if not began:
        return
    taken = generate(job, float(began), _stop_at_end_of(sys.stdin))
    told = {name: getattr(taken, name) for name in Taken.__slots__}
    _say(json.dumps({**told, "records": taken.records.to_json()}))


def _stop_at_end_of(stream: IO[str]) -> Callable[[Callable[[], None]], None]:
    def on_start(stop: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(stream)
            stop()

        loop.add_reader(stream, ended)

    return on_start


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
