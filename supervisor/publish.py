"""News of the slots, told to the broker and written to state.json, and only when there are any."""

from __future__ import annotations

from collections.abc import Mapping

from ..conf.paths import RunPaths
from ..wire.messages import Slots
from .fleet import Fleet
from .journal import Journal
from .link import BrokerLink
from .state import StateFile, document


class Published:
    """What was told last. Without `paths` there is no state file."""

    def __init__(self, link: BrokerLink, paths: RunPaths | None, journal: Journal) -> None:
        self._link = link
        self._file = StateFile(paths.state_file) if paths else None
        self._journal = journal
        self._mark: tuple[object, ...] = ()

    def tell(self, pool: Mapping[str, object], fleet: Fleet, now: float) -> None:
        """The broker first. A state file that cannot be written is complained about once, and tried again with the next news."""
        mark = (tuple(pool.values()), *(slot.mark() for slot in fleet.slots))
        if mark == self._mark:
            return
        self._mark = mark
        self._link.put(Slots(tuple(slot.brief(now) for slot in fleet.workers)))
        if self._file is None:
            return
        complained = self._file.failure is not None
        if not self._file.write(document(pool, fleet.broker, fleet.workers)) and not complained:
            self._journal.warn(f"the state file cannot be written: {self._file.failure}")
