"""Each server that has a batch size or a number of workers to choose gets its best, by queries a second at 100 callers.

A step of its own: what was tried is kept in a file, for this processor and these versions, and not measured again.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .contestants import WORKERS
from .measure import best_rate
from .processes import DidNotStart
from .records import Contestant

BATCHES = (4, 8, 16, 32)
SECONDS = 3.0
SERVERS = ("fastapi", "litserve", "mosec", "ray", "uvicorn")
"""Packages of the other servers, whose versions decide too."""

_VERSIONS = """
import sys
from importlib.metadata import distributions
print(*(f"{one.name} {one.version}" for one in distributions() if one.name in sys.argv))
"""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Tuned:
    """Tried options with their rates, by contestant; `best` of them. `of`: what they hold for."""

    path: Path
    of: dict[str, str]
    tried: dict[str, list[dict[str, Any]]]

    @classmethod
    def read(cls, path: Path, of: dict[str, str]) -> Tuned:
        """What the file holds, or nothing where it is of another processor, index or version."""
        kept = json.loads(path.read_text()) if path.exists() else {}
        return cls(path, of, kept.get("tried", {}) if kept.get("of") == of else {})

    def best(self, contestant: Contestant) -> Contestant:
        """The contestant with its best options; as it is where none were tried."""
        found = max(self.tried.get(contestant.key, ()), key=lambda one: float(one["qps"]), default=None)
        return contestant if found is None else replace(contestant, batch=found["batch"], workers=found["workers"])

    def keep(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({"of": self.of, "tried": self.tried}, indent=1))


def installed_versions(python: Path) -> dict[str, str]:
    """Of the other servers that `python` can import, by their packages; empty where there is no such interpreter."""
    if not python.exists():
        return {}
    told = subprocess.run([str(python), "-c", _VERSIONS, *SERVERS], check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(told[::2], told[1::2], strict=True))


def options(contestant: Contestant) -> list[Contestant]:
    """All that is tried of one; nothing where there is nothing to choose."""
    batches = BATCHES if contestant.batches else (contestant.batch,)
    workers = range(1, WORKERS + 1) if contestant.tune_workers else (contestant.workers,)
    tried = [replace(contestant, batch=batch, workers=count) for count in workers for batch in batches]
    return tried if len(tried) > 1 else []


def tune(
    contestants: Sequence[Contestant], tuned: Tuned, index: Path, python: str, questions: Callable[[], Iterator[str]], tell: Tell
) -> None:
    """Fill in what `tuned` has not, and keep it after each contestant."""
    for contestant in contestants:
        wanted = options(contestant)
        if not wanted or contestant.key in tuned.tried:
            continue
        found = []
        for one in wanted:
            try:
                rate = asyncio.run(best_rate(one, index, python, SECONDS, questions()))
            except DidNotStart as error:
                tell(f"tuning: {one.label}: {error}")
                rate = 0.0
            else:
                tell(f"tuning: {one.label}: {rate:.0f} q/s")
            found.append({"batch": one.batch, "workers": one.workers, "qps": round(rate, 1)})
            if not rate:
                break
        tuned.tried[contestant.key] = found
        tuned.keep()
