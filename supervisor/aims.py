"""What a worker process is to serve: an index folder, and once somebody has loaded it the version of that index. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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


def pinned(wanted: Aim, running: Sequence[tuple[Aim, str]]) -> Aim:
    """`wanted` with a version that its processes serve, of all `running` ones (aim, version that they loaded); as it is where
    none of them has loaded any.

    A version that was wanted, and that none of them found, is gone: what came in its place is what a respawn must take, or it
    would open whatever the folder holds by then.
    """
    served = [version for aim, version in running if aim.number == wanted.number and version]
    return replace(wanted, version=served[0]) if served and wanted.version not in served else wanted
