"""What a load generator saw: one row a request, kept in columns. Pure: times are arguments, in seconds from the start of the run.

Every request is kept, 46 bytes each, so that percentiles are exact: no histogram, no sampling.
"""

from __future__ import annotations

import base64
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

OK = "ok"
UNANSWERED = "unanswered"
"""The outcome of a request that still had no answer when the run ended: its `done` is that end."""

INTERRUPTED = "interrupted"
"""The same, where an operator ended the run while it measured: it may have been about to get one."""

STAGES = ("queue", "tokenize", "encode", "search", "fetch")
"""Stages that a reply tells in its timings_ms. A worker that tells none counts as 0."""


@dataclass(frozen=True, slots=True)
class Row:
    """`due`: when it should have been asked; `sent`: when it was; `done`: when it had its outcome. `stages_ms` as `STAGES`."""

    due: float
    sent: float
    done: float
    outcome: str
    stages_ms: tuple[float, ...]


class Records:
    """Rows in the order in which they ended. `outcomes` names them: `OK`, `UNANSWERED`, `INTERRUPTED`, or an error's code."""

    def __init__(self) -> None:
        self._times = array("d")
        self._stages = array("f")
        self._outcome = array("H")
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._outcome)

    def __iter__(self) -> Iterator[Row]:
        times, stages, width = self._times, self._stages, len(STAGES)
        for n, outcome in enumerate(self._outcome):
            due, sent, done = times[3 * n : 3 * n + 3]
            yield Row(due, sent, done, self._names[outcome], tuple(stages[width * n : width * (n + 1)]))

    def add(self, due: float, sent: float, done: float, outcome: str, timings_ms: Mapping[str, float] | None = None) -> None:
        told = timings_ms or {}
        self._times.extend((due, sent, done))
        self._stages.extend([told.get(stage, 0.0) for stage in STAGES])
        self._outcome.append(self._number(outcome))

    def extend(self, other: Records) -> None:
        """Put the rows of another generator of the same run behind these."""
        self._times.extend(other._times)
        self._stages.extend(other._stages)
        self._outcome.extend([self._number(other._names[outcome]) for outcome in other._outcome])

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self._names)
            self._names.append(name)
        return self._numbers[name]

    def to_json(self) -> dict[str, Any]:
        return {
            "times": base64.b64encode(self._times.tobytes()).decode(),
            "stages": base64.b64encode(self._stages.tobytes()).decode(),
            "outcome": base64.b64encode(self._outcome.tobytes()).decode(),
            "names": self._names,
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Records:
        """What `to_json` of a process on this machine gave."""
        records = cls()
        records._times.frombytes(base64.b64decode(told["times"]))
        records._stages.frombytes(base64.b64decode(told["stages"]))
        records._outcome.frombytes(base64.b64decode(told["outcome"]))
        for name in told["names"]:
            records._number(name)
        return records


@dataclass(frozen=True, slots=True)
class Taken:
    """What one generator, or all of a run together, brought home.

    `ended_s`: when it stopped asking; `ticks_ms`: how late it was at its own regular alarms while it measured; `busiest_s` and
    `cpu_s`: processor seconds while it measured, of the busiest process and of all; `missed`: requests that were due while it
    measured and that it never came to ask; `asked`: questions it asked, warm-up included; `repeated`: those asked before.
    """

    records: Records
    ended_s: float
    ticks_ms: list[float]
    cpu_s: float
    busiest_s: float
    missed: int
    asked: int
    repeated: int


def merged(parts: list[Taken]) -> Taken:
    """The parts of one run, one a process, as one."""
    records = Records()
    for part in parts:
        records.extend(part.records)
    return Taken(
        records,
        min(part.ended_s for part in parts),
        [tick for part in parts for tick in part.ticks_ms],
        sum(part.cpu_s for part in parts),
        max(part.busiest_s for part in parts),
        sum(part.missed for part in parts),
        sum(part.asked for part in parts),
        sum(part.repeated for part in parts),
    )
