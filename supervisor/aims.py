"""What a worker process is to serve: an index folder, and once somebody has loaded it the version of that index. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .process import ChildSpec


@dataclass(frozen=True, slots=True)
class Aim:
    """`index`: a folder; `version`: which version of it, "" for whichever its manifest names. `number`: of the rollout that wants
    it; 0 from the start."""

    index: str = ""
    version: str = ""
    number: int = 0


MakeSpec = Callable[[int, Aim], ChildSpec]
"""The worker of a slot that serves this."""
