"""Names that were seen, each told apart from its repetitions, as far back as there is room."""

from __future__ import annotations

SEEN_MAX = 1024


class Seen:
    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, name: str) -> bool:
        """True for a name that is new; the oldest is forgotten where there are too many."""
        if name in self._names:
            return False
        self._names[name] = None
        while len(self._names) > SEEN_MAX:
            del self._names[next(iter(self._names))]
        return True
