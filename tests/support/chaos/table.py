"""What came of it all, a row for each fault: from what was done and what the clients were told. Pure arithmetic and text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .runner import Done

QUIET = "between faults"
UNDER_WAY_S = 1.0
RIGHT, WRONG, TWICE = "right", "wrong", "twice"
HEADS = (
    "fault", "times", "requests", "lost", "wrong", "twice", "errors", "noticed s", "back s", "p50 ms", "p99.9 ms", "longest s",
)  # fmt: skip


@dataclass
class Row:
    """One fault, all its times together. `took`: seconds of the requests that met it, not of those that waited for something else
    before. `noticed` and `back`: seconds, one for each time that could be measured."""

    name: str
    times: int = 0
    requests: int = 0
    longest: float = 0.0
    ends: Counter[str] = field(default_factory=Counter)
    took: list[float] = field(default_factory=list)
    noticed: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)
    due: Counter[str] = field(default_factory=Counter)

    @property
    def lost(self) -> int:
        return self.requests - self.ends[RIGHT] - self.ends[WRONG]

    def add(self, other: Row) -> None:
        self.times += other.times
        self.requests += other.requests
        self.longest = max(self.longest, other.longest)
        self.ends += other.ends
        self.due += other.due
        self.took += other.took
        self.noticed += other.noticed
        self.back += other.back

    def cells(self) -> tuple[str, ...]:
        codes = {code: n for code, n in sorted((self.ends + self.due).items()) if code not in (RIGHT, WRONG, TWICE)}
        errors = ", ".join(f"{code} {n}" for code, n in codes.items()) or "-"
        counts = (self.times, self.requests, self.lost, self.ends[WRONG], self.ends[TWICE])
        return (
            self.name, *map(str, counts), errors, _worst(self.noticed), _worst(self.back),
            f"{percentile(self.took, 0.5) * 1e3:.0f}", f"{percentile(self.took, 0.999) * 1e3:.0f}",
            f"{self.longest:.1f}",
        )  # fmt: skip


def rows_of(done: Sequence[Done], answers: Iterable[dict[str, Any]]) -> list[Row]:
    """A row for each fault in the order of their names, then the one of quiet times. A request counts for the last fault that
    began while it was under way, or else was still going on."""
    rows = {each.fault.name: Row(each.fault.name) for each in sorted(done, key=lambda each: each.fault.name)}
    rows[QUIET] = Row(QUIET)
    for each in done:
        row = rows[each.fault.name]
        row.times += 1
        row.noticed += [each.times.detect_s] if each.times.detect_s is not None else []
        row.back += [each.times.back_s] if each.times.back_s is not None else []
        if each.fault.due and not each.failed:
            row.due[each.fault.due] += 2
    latest_first = sorted(done, key=lambda each: -each.began)
    for answer in answers:
        cause = _cause(latest_first, answer)
        row = rows[cause.fault.name if cause else QUIET]
        row.ends[answer["end"]] += 1
        if answer["end"] != TWICE:
            row.requests += 1
            row.longest = max(row.longest, answer["took"])
            if cause is None or answer["at"] >= cause.began - UNDER_WAY_S:
                row.took.append(answer["took"])
    return list(rows.values())


def _cause(latest_first: Sequence[Done], answer: dict[str, Any]) -> Done | None:
    began, ended = answer["at"], answer["at"] + answer.get("took", 0.0)
    return next((each for each in latest_first if each.began <= ended and each.ended >= began), None)


def total(rows: Iterable[Row]) -> Row:
    """All of them as one."""
    row = Row("all")
    for each in rows:
        row.add(each)
    return row


def merged(rows: Iterable[Row]) -> list[Row]:
    """Rows of the same name as one, those of quiet times last."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(row.name, Row(row.name)).add(row)
    return sorted(found.values(), key=lambda row: (row.name == QUIET, row.name))


def text(rows: Sequence[Row]) -> str:
    """The table, columns aligned."""
    lines = [HEADS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    left = {0, HEADS.index("errors")}
    aligned = (
        [cell.ljust(width) if column in left else cell.rjust(width) for column, (cell, width) in enumerate(zip(line, widths))]
        for line in lines
    )
    return "\n".join("  ".join(cells).rstrip() for cells in aligned)


def percentile(values: Sequence[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else 0.0


def _worst(values: Sequence[float]) -> str:
    return f"{max(values):.2f}" if values else "-"
