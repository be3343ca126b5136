"""When silence means something. Any message counts as life; a pause of the broker itself counts for nobody."""

from __future__ import annotations

from dataclasses import dataclass

from .states import DRAINING, LOADING, READY, SUSPECT
from .workers import Worker

TICK_S = 0.2
"""How often workers are pinged (a ROUTER says that a peer is gone only when something is sent to it) and silence is judged."""

CLIENT_PING_S = 0.5
"""How often clients that own work are pinged, for the same reason."""

PAUSE_S = 1.0
"""A turn of the loop that comes this late means that the broker stood still."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds of silence after which a worker is suspect, dead, or, while it loads, dead."""

    suspect_after_s: float = 3.0
    dead_after_s: float = 10.0
    load_timeout_s: float = 600.0


def judge(worker: Worker, patience: Patience, now: float) -> str:
    """What the silence of `worker` means now: "" nothing, "suspect", or "dead"."""
    silent_s = now - worker.heard
    state = worker.state.name
    if state == LOADING:
        return "dead" if silent_s > patience.load_timeout_s else ""
    if silent_s > patience.dead_after_s and state in (READY, SUSPECT, DRAINING):
        return "dead"
    return "suspect" if silent_s > patience.suspect_after_s and state == READY else ""


def pause_s(previous_turn: float, now: float) -> float:
    """How long the broker itself stood still before this turn; 0 when it did not."""
    gap = now - previous_turn
    return gap if gap > PAUSE_S else 0.0
