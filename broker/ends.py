"""How workers ended, and which requests are suspect for it. Pure.

An end is told by our own parent, or by the registration of the worker that follows in its slot, maybe by both: it counts once.
"""

from __future__ import annotations

from ..wire.messages import Gone
from .ledger import Ledger
from .pending import Pending
from .poison import Poison

SEEN_MAX = 1024

SOLO_DEATHS = 2
"""Workers that end of themselves while they run a request alone before it is called poison: one may have reasons of its own."""


class Ends:
    """`poison` remembers what was proved."""

    def __init__(self, ledger: Ledger) -> None:
        self.poison = Poison()
        self._ledger = ledger
        self._seen: dict[str, None] = {}

    def is_news(self, incarnation: str) -> bool:
        """True for an end that was not told before; the oldest are forgotten where there are too many."""
        if incarnation in self._seen:
            return False
        self._seen[incarnation] = None
        while len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        return True

    def judge(self, end: Gone, now: float) -> tuple[list[Pending], Pending | None]:
        """(requests that are suspect and run apart from now on, the one that is proved to be poison). After the worker's credits
        have returned: what it ran is with nobody then."""
        suspects = [pending for pending in map(self._ledger.get, end.running) if pending is not None] if end.blame else []
        if len(suspects) == 1 and end.incarnation in suspects[0].solo_on:
            suspects[0].solo_deaths += 1
            if suspects[0].solo_deaths >= SOLO_DEATHS:
                self.poison.remember(suspects[0].request, now)
                return [], suspects[0]
        if suspects:
            self._ledger.try_apart(suspects)
        return suspects, None
