"""Whether a living process still gets anywhere, judged from what it stamps. Pure: looks and times in, a verdict out.

Three ways to get nowhere are told apart: a batch that does not end, a loop that does not turn (something holds the interpreter),
and a process that a signal stopped. Time is counted only as far as it was watched: a parent that stood still itself takes nobody
for hung when it wakes, and the time for which a process was stopped is no silence of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

LOOK_S = 0.5
"""How often each process is looked at."""

STUCK_FACTOR = 20.0
STOPPED = "T"
TRACED = "t"
"""A debugger holds it. Whoever does that wants it alive."""


@dataclass(frozen=True, slots=True)
class WatchRules:
    """Seconds. A batch hangs after max(`stuck_min_s`, 20 x p99), a loop that does not turn after `stuck_min_s`; a process that
    a signal stopped is ended after `stopped_max_s`, or (None) left alone until somebody wakes it."""

    stuck_min_s: float = 30.0
    stopped_max_s: float | None = 10.0


@dataclass(frozen=True, slots=True)
class Look:
    """`beat` differs from before when the loop turned; `batch` names the running batch (0: none). `process` is the state of
    /proc/PID/stat, "" where it cannot be read."""

    beat: int
    batch: int = 0
    p99_s: float = 0.0
    process: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """End it. `hung`: its own fault, with a stack dump first; else it was stopped from outside, and obeys SIGKILL alone."""

    reason: str
    hung: bool


class Watch:
    """One process, from its start on."""

    def __init__(self, rules: WatchRules, now: float) -> None:
        self.rules = rules
        self.stopped = False
        self.stopped_s = 0.0
        self.traced = False
        self.hashes = False
        """It loads, and has stamped since the last look that it goes on hashing files."""
        self._looked_at = now
        self._watched = 0.0
        self._beat = 0
        self._beat_since = 0.0
        self._batch = 0
        self._batch_since = 0.0

    def look(self, look: Look, now: float, *, loading: bool = False) -> Verdict | None:
        """What this look says. While it loads only a stop is judged: imports hold the interpreter for as long as they like; and
        no requests run, so that what is stamped is the hashing of files."""
        step = max(0.0, min(now - self._looked_at, 2 * LOOK_S))
        self._looked_at = now
        still_stopped = self.stopped and look.process == STOPPED and look.beat == self._beat
        self.stopped_s = self.stopped_s + step if still_stopped else 0.0
        self.stopped, self.traced = look.process == STOPPED, look.process == TRACED
        if not self.stopped and not self.traced:
            self._watched += step
        self.hashes = loading and look.batch not in (0, self._batch)
        if loading or look.beat != self._beat:
            self._beat, self._beat_since = look.beat, self._watched
        if look.batch != self._batch:
            self._batch, self._batch_since = look.batch, self._watched
        if self.stopped or self.traced:
            return self._judge_stop()
        return None if loading else self._judge_progress(look.p99_s)

    def _judge_stop(self) -> Verdict | None:
        limit = self.rules.stopped_max_s
        if limit is None or self.stopped_s < limit:
            return None
        return Verdict(f"stopped for {self.stopped_s:.0f} s by a signal", hung=False)

    def _judge_progress(self, p99_s: float) -> Verdict | None:
        batch_s = self._watched - self._batch_since if self._batch else 0.0
        if batch_s > max(self.rules.stuck_min_s, STUCK_FACTOR * p99_s):
            return Verdict(f"hung in a batch for {batch_s:.0f} s", hung=True)
        silent_s = self._watched - self._beat_since
        if silent_s > self.rules.stuck_min_s:
            return Verdict(f"hung: its loop has not turned for {silent_s:.0f} s", hung=True)
        return None

    def detail(self) -> str:
        """What is unusual about it, for the status; empty where nothing is."""
        if self.traced:
            return "held by a debugger"
        if self.stopped:
            return "stopped by a signal"
        return "hashes the files of its index, once on this host" if self.hashes else ""
