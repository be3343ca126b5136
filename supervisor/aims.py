"""What a worker process is to serve: an index folder, and once somebody has loaded it the version of that index. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .process import ChildSpec


@dataclass(frozen=True, slots=True)
class Aim:
    """`index`: a folder as it was named; `folder`: where that led when it was decided, for it may be a link that somebody turns.
    `version`: which version is wanted, "" for whichever the manifest names. `number`: of the rollout that wants it; 0 from the
    start."""

    index: str = ""
    version: str = ""
    number: int = 0
    folder: str = ""


MakeSpec = Callable[[int, Aim], ChildSpec]
"""The worker of a slot that serves this."""
