"""News of the slots, told to the broker, to whoever started us, and written to state.json, and only when there are any."""

from __future__ import annotations

from collections.abc import Mapping

from ..conf.paths import RunPaths
from ..wire.messages import Rollout, Slots
from .fleet import Fleet
from .journal import Journal
from .link import BrokerLink
from .notify import Notifier
from .policy import RUNNING
from .state import StateFile, document

WRITE_AGAIN_S = 1.0
"""A disk that was full is tried again this often."""


class Published:
    """What was told last. Without `paths` there is no state file."""

    def __init__(self, link: BrokerLink, paths: RunPaths | None, journal: Journal, notifier: Notifier) -> None:
        self._link = link
        self._file = StateFile(paths.state_file) if paths else None
        self._journal = journal
        self._notifier = notifier
        self._mark: tuple[object, ...] = ()
        self.due_at: float | None = None

    def tell(self, pool: Mapping[str, object], fleet: Fleet, rollout: Rollout, now: float) -> None:
        """The broker first. What a full disk did not take is written when there is room again."""
        mark = (self._journal.trouble, rollout, *pool.values(), *(slot.mark() for slot in fleet.slots))
        news = mark != self._mark
        if news:
            self._mark = mark
            self._tell_others(pool, fleet, rollout, now)
        if not news and (self.due_at is None or now < self.due_at):
            return
        if self._file is not None:
            self._file.write(document(pool, fleet.broker, fleet.workers, fleet.beside, rollout))
            self._journal.disk("the state file", self._file.failure)
            if not news and self._file.failure is None:
                self._journal.note("wrote what a full disk had refused")
        self.due_at = now + WRITE_AGAIN_S if self._journal.trouble else None
        if self._journal.trouble != mark[0]:
            self._mark = (self._journal.trouble, *mark[1:])
            self._tell_others(pool, fleet, rollout, now)

    def _tell_others(self, pool: Mapping[str, object], fleet: Fleet, rollout: Rollout, now: float) -> None:
        """Of two slots of one number the one that serves stands first."""
        slots = (*fleet.workers, *fleet.beside.values(), *fleet.retiring)
        self._link.put(Slots(tuple(slot.brief(now) for slot in slots), self._journal.trouble, rollout))
        running = sum(slot.policy.state == RUNNING for slot in fleet.workers)
        self._notifier.status(f"{pool['state']}, {running} of {len(fleet.workers)} workers run")
