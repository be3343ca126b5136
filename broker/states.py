"""The life of a worker as the broker sees it, as a table. docs/states.md is generated from it."""

from __future__ import annotations

LOADING = "loading"
READY = "ready"
SUSPECT = "suspect"
DRAINING = "draining"
DEAD = "dead"

LOADED = "loaded"
"""Its own warm-up query came back."""
SILENT = "silent"
"""Nothing heard for `suspect_after_s`: no new work."""
HEARD = "heard"
"""A message from a suspect."""
LEAVING = "leaving"
"""It, or an operator, said that it drains."""
LOST = "lost"
"""Its process ended, its link is gone, it was silent for `dead_after_s`, or it said BYE."""

TRANSITIONS: dict[tuple[str, str], str] = {
    (LOADING, LOADED): READY,
    (LOADING, LEAVING): DRAINING,
    (LOADING, LOST): DEAD,
    (READY, SILENT): SUSPECT,
    (READY, LEAVING): DRAINING,
    (READY, LOST): DEAD,
    (SUSPECT, HEARD): READY,
    (SUSPECT, LEAVING): DRAINING,
    (SUSPECT, LOST): DEAD,
    (DRAINING, LOST): DEAD,
}


class IllegalTransition(Exception):
    """A defect of ours: an event in a state where the table has none. Carries the history of the worker."""


class WorkerState:
    """Where a worker is in the table, and how it got there (the last 16 steps)."""

    __slots__ = ("history", "name")

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.history: list[tuple[float, str, str]] = [(now, "joined", name)]

    def on(self, event: str, now: float) -> None:
        """Take the step that the table lists; raises `IllegalTransition` where it lists none."""
        to = TRANSITIONS.get((self.name, event))
        if to is None:
            raise IllegalTransition(f"{event} in {self.name}; history {self.history}")
        self.name = to
        self.history = [*self.history[-15:], (now, event, to)]


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> loading", "    [*] --> ready: registered again"]
    lines += [f"    {state} --> {to}: {event}" for (state, event), to in TRANSITIONS.items()]
    return "\n".join([*lines, "    dead --> [*]"])
