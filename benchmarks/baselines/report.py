"""[P] The table of a run, the ratios under it, and its last line. Text from numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .records import BURSTS, MEMORY_AT, OURS, STOCK, Ceiling, Contestant, Round
from .stats import Point, middle

TITLES = (
    "callers", "server", "q/s", "p50 ms", "p99 ms", "longest ms", "CPU ms/query", "failed",
    *(f"burst {n} ms" for n in BURSTS), "PSS MB", "wrong ids",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A server over all rounds, or why it has none."""

    contestant: Contestant
    rounds: Sequence[Round]
    failure: str = ""

    def at(self, callers: int) -> Point:
        return middle([one.points[callers] for one in self.rounds])

    def burst_ms(self, count: int) -> float:
        return median(one.burst_ms[count] for one in self.rounds)

    @property
    def pss_mb(self) -> float:
        return median(one.pss_mb for one in self.rounds)

    @property
    def wrong(self) -> str:
        return f"{sum(one.wrong for one in self.rounds)} of {sum(one.checked for one in self.rounds)}"


@dataclass(frozen=True)
class Ideal:
    """What the ideal queue makes of the rate of our open loop, with batches of at most `batch`; not a number where no batch was
    measured."""

    p99_ms: float
    batch: int

    @classmethod
    def of(cls, found: tuple[float, int] | None) -> Ideal:
        return cls(found[0] * 1e3, found[1]) if found else cls(float("nan"), 0)


@dataclass(frozen=True)
class Offline:
    """What the processes without a server reached, medians; and the ideal queue, where batches take what they took there, or what
    they took our workers in the open loop."""

    ceiling: Ceiling
    single_ms: float
    in_process: Ideal
    in_workers: Ideal


def table(rows: Sequence[Row], callers: Sequence[int], ceiling: Ceiling) -> str:
    """A block for each concurrency, every server and the ceiling in it."""
    lines = [TITLES]
    for count in callers:
        lines += [_line(count, row) for row in rows]
        if count == MEMORY_AT:
            label = f"no server (ceiling), batch {ceiling.batch}"
            lines.append((str(count), label, f"{ceiling.qps:.0f}", *[""] * 3, f"{ceiling.cpu_ms:.2f}", *[""] * (len(TITLES) - 7)))
    whole = [line for line in lines if len(line) == len(TITLES)]
    widths = [max(len(line[i]) for line in whole) for i in range(len(TITLES))]
    widths[1] = max(len(line[1]) for line in lines)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 1 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=False))
        ).rstrip()
        for line in lines
    )


def _line(callers: int, row: Row) -> tuple[str, ...]:
    start = (str(callers), row.contestant.label)
    if not row.rounds:
        return (*start, row.failure)
    at = row.at(callers)
    extra = (*(f"{row.burst_ms(n):.0f}" for n in BURSTS), f"{row.pss_mb:.0f}", row.wrong)
    return (
        *start, f"{at.qps:.0f}", f"{at.p50_ms:.1f}", f"{at.p99_ms:.1f}", f"{at.longest_ms:.0f}", f"{at.cpu_ms:.2f}",
        f"{at.failed:.0f}", *(extra if callers == MEMORY_AT else ("",) * len(extra)),
    )  # fmt: skip


def ratios(rows: Sequence[Row], callers: Sequence[int], offline: Offline) -> list[str]:
    """What was wanted of us beside what was seen."""
    ours = next(row for row in rows if row.contestant.kind == OURS)
    if not ours.rounds:
        return [f"our own pool gave no figures: {ours.failure}"]
    others = [row for row in rows if row is not ours and row.rounds]
    at_100, single = ours.at(MEMORY_AT), ours.at(1).p50_ms
    worker_ms = median(one.worker_cpu_ms for one in ours.rounds)
    rate = median(one.open_rate for one in ours.rounds)
    p50, p99 = (median(one.open_ms[i] for one in ours.rounds) for i in (0, 1))
    found = [
        f"q/s at 100 to the ceiling's: {at_100.qps / offline.ceiling.qps:.2f} (wanted: at least 0.90)",
        f"CPU of the workers a query at 100 to the ceiling's: {worker_ms:.2f} / {offline.ceiling.cpu_ms:.2f} ms = "
        f"{worker_ms / offline.ceiling.cpu_ms:.2f} (wanted: at most 1.05)",
        f"one caller's p50 to encode(1) + search(1) in process: {single:.2f} / {offline.single_ms:.2f} ms = "
        f"{single / offline.single_ms:.2f} (wanted: at most 1.15)",
        f"open loop at {rate:.0f} q/s, 80 % of ours at 100: p50 {p50:.1f} ms, p99 {p99:.1f} ms (wanted: at most 1.25 times "
        "that of an ideal queue)",
        f"  ideal queue, batches as in process: {_beside(p99, offline.in_process)}",
        f"  ideal queue, batches as in the workers meanwhile: {_beside(p99, offline.in_workers)}",
    ]
    for count in (100, 500):
        stock = [row for row in others if row.contestant.kind == STOCK and count in callers and row.at(count).qps]
        if stock:
            best = max(stock, key=lambda row: row.at(count).qps)
            times = ours.at(count).qps / best.at(count).qps
            found.append(
                f"q/s at {count} to the best stock server's ({best.contestant.name}): {times:.2f} (wanted: at least 2.5)"
            )
    ahead = _behind(ours, others, callers)
    return [*found, f"not ahead of: {'; '.join(ahead)}" if ahead else "ahead of every server in q/s and p99 where that is wanted"]


def _beside(p99: float, ideal: Ideal) -> str:
    return f"up to {ideal.batch} in one, p99 {ideal.p99_ms:.1f} ms: ours is {p99 / ideal.p99_ms:.2f} times as long"


def _behind(ours: Row, others: Sequence[Row], callers: Sequence[int]) -> list[str]:
    """Where another server has more q/s or a lower p99: all of them at 10, 100 and 500 callers, the stock ones at 1."""
    found = []
    for count in callers:
        mine = ours.at(count)
        for row in others:
            if count == 1 and row.contestant.kind != STOCK:
                continue
            theirs = row.at(count)
            if theirs.qps >= mine.qps:
                found.append(f"{row.contestant.label} at {count} in q/s")
            if theirs.p99_ms <= mine.p99_ms:
                found.append(f"{row.contestant.label} at {count} in p99")
    return found


def last_line(rows: Sequence[Row], ceiling: Ceiling) -> str:
    """`ceiling R1, best baseline R2 (name)`: our q/s at 100 as ratios to the ceiling and to the best stock server."""
    ran = [row for row in rows if row.rounds]
    rates = {row.contestant.name: row.at(MEMORY_AT).qps for row in ran if row.contestant.kind == STOCK}
    ours = next((row.at(MEMORY_AT).qps for row in ran if row.contestant.kind == OURS), 0.0)
    if not any(rates.values()):
        return f"ceiling {ours / ceiling.qps:.2f}, best baseline none ran"
    best = max(rates, key=lambda name: rates[name])
    return f"ceiling {ours / ceiling.qps:.2f}, best baseline {ours / rates[best]:.2f} ({best})"
