"""What the parent did and saw, a line each with the time, in logs/parent.log. A full disk costs lines, never more."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from .process import LOG_MAX_BYTES


class Journal:
    """`path` None: everything goes to stderr."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def note(self, line: str) -> None:
        """For whoever looks into it later."""
        if self._path is None:
            self._tell(line)
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        try:
            if self._path.exists() and self._path.stat().st_size > LOG_MAX_BYTES:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{stamp} {line}\n")
        except OSError:
            pass

    def warn(self, line: str) -> None:
        """For the operator, now."""
        if self._path is not None:
            self.note(line)
        self._tell(line)

    def _tell(self, line: str) -> None:
        try:
            print(line, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            pass
