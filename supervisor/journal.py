"""What the parent did and saw, a line each with the time, in logs/parent.log. A full disk costs lines, never more.

It is said once, also for everything else that the parent writes: `disk` is told how each write went.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from .logs import LOG_MAX_BYTES, aside


class Journal:
    """`path` None: everything goes to stderr."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._failures: dict[str, str] = {}

    @property
    def trouble(self) -> str:
        """What cannot be written now, in words; empty where all can."""
        return "; ".join(f"{what} cannot be written: {why}" for what, why in self._failures.items())

    def note(self, line: str) -> None:
        """For whoever looks into it later."""
        if self._path is None:
            self._tell(line)
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        try:
            if self._path.exists() and self._path.stat().st_size > LOG_MAX_BYTES:
                self._path.replace(aside(self._path))
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{stamp} {line}\n")
        except OSError as error:
            self.disk("the log", str(error))
        else:
            self.disk("the log", None)

    def warn(self, line: str) -> None:
        """For the operator, now."""
        if self._path is not None:
            self.note(line)
        self._tell(line)

    def disk(self, what: str, failure: str | None) -> None:
        """How the last write of `what` went. The operator is told when it fails the first time, and when it succeeds again."""
        failed_before = what in self._failures
        if failure is not None:
            self._failures[what] = failure
            if not failed_before:
                self._tell(f"{what} cannot be written: {failure}; the pool serves on")
        elif failed_before:
            del self._failures[what]
            self._tell(f"{what} can be written again")

    def _tell(self, line: str) -> None:
        try:
            print(line, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            pass
