"""What the parent wrote, with the time of each writing: state.json is read at each change, so that times are its, not ours."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLL_S = 0.005

Document = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """One state of the slots. `at`: seconds since 1970, when it was written."""

    at: float
    document: Document

    def slot(self, number: int) -> Document:
        slots = self.document["slots"]
        return dict(slots[number]) if number < len(slots) else {}


class Watch(threading.Thread):
    """`history` grows with every change of the file that was noticed."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._changed = threading.Condition()
        self._stopping = False
        self.history: list[Seen] = []

    def run(self) -> None:
        mark = None
        while not self._stopping:
            try:
                stat = self._path.stat()
                if (stat.st_ino, stat.st_mtime_ns) != mark:
                    seen = Seen(stat.st_mtime_ns / 1e9, json.loads(self._path.read_text()))
                    mark = (stat.st_ino, stat.st_mtime_ns)
                    with self._changed:
                        self.history.append(seen)
                        self._changed.notify_all()
            except (OSError, ValueError):
                pass
            time.sleep(POLL_S)

    def stop(self) -> None:
        self._stopping = True
        self.join(5)

    @property
    def now(self) -> Seen:
        return self.history[-1] if self.history else Seen(0.0, {"pool": {}, "broker": None, "slots": []})

    def wait(self, condition: Callable[[Seen], Any], timeout_s: float) -> Any:
        """The first true value of `condition` of a state, from now on; None when none came in time."""
        give_up = time.monotonic() + timeout_s
        with self._changed:
            position = max(0, len(self.history) - 1)
            while True:
                while position < len(self.history):
                    if value := condition(self.history[position]):
                        return value
                    position += 1
                left = give_up - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)

    def last_load_s(self, number: int) -> float:
        """How long the process that now runs in a slot took from its start until it served."""
        began = ended = 0.0
        for seen in reversed(self.history):
            slot = seen.slot(number)
            if slot.get("state") == "running" and not began:
                ended = seen.at
            elif slot.get("state") == "starting" and slot.get("pid"):
                began = seen.at
            elif began:
                break
        return max(0.0, ended - began)

    def waits_s(self, number: int, since: float) -> list[tuple[str, float]]:
        """(state, seconds) of a slot since then, in order, "starting" without a process being "waiting"."""
        found: list[tuple[str, float]] = []
        for before, after in zip(self.history, [*self.history[1:], Seen(time.time(), {})]):
            if after.at <= since:
                continue
            slot = before.slot(number)
            name = "waiting" if slot.get("state") == "starting" and not slot.get("pid") else slot.get("state", "")
            took = after.at - max(since, before.at)
            if found and found[-1][0] == name:
                found[-1] = (name, found[-1][1] + took)
            else:
                found.append((name, took))
        return found
