"""The order in which a pool goes down, each stage bounded in time. Pure: says which stage is entered, performs nothing.

    serving -> draining -> stopping workers -> stopping broker -> killing -> done

A stage is left when what it waits for has happened or its time is up; stages with nothing to wait for are passed at once.
"""

from __future__ import annotations

from collections import deque

SERVING = "serving"
DRAINING = "draining"
STOPPING_WORKERS = "stopping workers"
STOPPING_BROKER = "stopping broker"
KILLING = "killing"
DONE = "done"
STAGES = (SERVING, DRAINING, STOPPING_WORKERS, STOPPING_BROKER, KILLING, DONE)

STOP_WORKERS_S = 5.0
"""After a drain nothing is pending: a worker that does not leave now is stuck, or loads."""
STOP_BROKER_S = 3.0
KILL_S = 5.0
"""Not even SIGKILL ends a process that waits inside the kernel: it is left behind, and dies when it wakes."""


class Shutdown:
    """`exit_code` is what the parent returns. `drained` is set when the broker says so."""

    def __init__(self, drain_timeout_s: float) -> None:
        self.stage = SERVING
        self.exit_code = 0
        self.drained = False
        self.deadline: float | None = None
        self._drain_timeout_s = drain_timeout_s
        self._workers_s = STOP_WORKERS_S
        self._entered: deque[str] = deque()

    @property
    def begun(self) -> bool:
        return self.stage != SERVING

    def drain(self, now: float, *, through_broker: bool) -> None:
        """Go down in order. Without a broker that serves, the workers' own SIGTERM is the drain and gets its time."""
        if self.begun:
            return
        if through_broker:
            self._enter(DRAINING, now + self._drain_timeout_s)
        else:
            self._workers_s = max(STOP_WORKERS_S, self._drain_timeout_s)
            self._enter(STOPPING_WORKERS, now + self._workers_s)

    def kill(self, now: float, exit_code: int) -> None:
        """Go down now; the work in hand is thrown away."""
        if self.stage not in (KILLING, DONE):
            self.exit_code = exit_code
            self._enter(KILLING, now + KILL_S)

    def advance(self, now: float, *, workers: int, broker: bool) -> list[str]:
        """The stages entered since the last call. `workers`: processes that still live, beside the broker."""
        while self.begun and self.stage != DONE and self._is_over(now, workers, broker):
            following = STAGES[STAGES.index(self.stage) + 1]
            seconds = {STOPPING_WORKERS: self._workers_s, STOPPING_BROKER: STOP_BROKER_S, KILLING: KILL_S}.get(following, 0.0)
            self._enter(following, now + seconds)
        entered = list(self._entered)
        self._entered.clear()
        return entered

    def _is_over(self, now: float, workers: int, broker: bool) -> bool:
        if self.deadline is not None and now >= self.deadline:
            return True
        return {
            DRAINING: self.drained or not broker,
            STOPPING_WORKERS: workers == 0,
            STOPPING_BROKER: not broker,
            KILLING: workers == 0 and not broker,
        }[self.stage]

    def _enter(self, stage: str, deadline: float) -> None:
        self.stage = stage
        self.deadline = None if stage == DONE else deadline
        self._entered.append(stage)
