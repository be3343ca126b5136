"""The figures of one run from its records. Pure: the laws of what is counted stand here, and nowhere else.

Counted are the requests that were due while the run measured. Of its warm-up, which ends at `start_s`, only those are that got no
answer in time and were open beyond it: else a pool that stands still would have nothing to show. Latency runs from the time a
request was DUE to its answer. In an open loop that corrects for coordinated omission (G. Tene, "How NOT to Measure
Latency"; wrk2): a request that had to wait because the server or the generator was stuck counts with all its waiting.

Percentiles are exact, the nearest rank over every request. A request that got no answer in time is in them with the time it
waited, a lower bound: without it a pool would look faster by being slower. One that failed otherwise is an error, not a latency.
What is open when an operator cuts the run short counts in the longest time that one was open, and nowhere else.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..wire.errors import DeadlineExceeded
from .bench_records import INTERRUPTED, OK, STAGES, UNANSWERED, Row, Taken

TRANSPORT = "transport"
"""The stage that is the rest: wire, broker, waiting inside the worker, and this client."""

LATE = "late"
"""The stage before the first, in an open loop: due, and not sent yet."""

IN_VAIN = frozenset({UNANSWERED, DeadlineExceeded.code})

PERCENTILES = "exact, nearest rank over every request"

OFFERED_LEAST = 0.99
"""A smaller share of the rate asked for is not that rate."""

BUSY_MOST = 0.9
"""A generator process that used more of one core than this measured itself."""

LATE_NOTED_MS = 5.0
LATE_SHARE = 0.1
"""A generator that was late by more than both, the second as a share of the median latency, says so."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a run asks: `concurrency` callers that each wait for their answer, or `rate` requests a second whatever happens."""

    concurrency: int = 0
    rate: float = 0.0

    @property
    def open(self) -> bool:
        return self.rate > 0

    def __str__(self) -> str:
        return f"rate {self.rate:g}/s" if self.open else f"concurrency {self.concurrency}"


@dataclass(frozen=True, slots=True)
class Spread:
    """Milliseconds. All 0 without samples."""

    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    max: float = 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """One row of the table. Every counted request is in exactly one of `ok`, `errors`, `unanswered`, `missed`.

    `qps`: answers that arrived while the run measured, a second. `offered_qps`: requests sent then, a second.
    `longest_unanswered_ms`: of all requests that were open while it measured, answered or not. `stages_ms`: of answered requests.
    `missed`: requests that were due and never sent. `generator_cpu_us`: processor time of the generator for each request sent;
    `generator_cores`: of its busiest process, as a share of one core. `generator_late_ms`: how late it sent what was due; in a
    closed loop how late its alarms rang. `repeated`: questions that were asked before in this run, its warm-up included.
    """

    concurrency: int
    rate: float
    duration_s: float
    requests: int
    ok: int
    qps: float
    offered_qps: float
    latency_ms: Spread
    longest_unanswered_ms: float
    unanswered: int
    missed: int
    errors: dict[str, int]
    stages_ms: dict[str, Spread]
    generator_late_ms: Spread
    generator_cpu_us: float
    generator_cores: float
    repeated: int
    interrupted: bool
    notes: tuple[str, ...]


def percentile(ranked: Sequence[float], permille: int) -> float:
    """Nearest rank: the least of `ranked`, which is sorted and not empty, that `permille` thousandths do not exceed."""
    return ranked[max(1, -(-len(ranked) * permille // 1000)) - 1]


def spread(samples: Sequence[float]) -> Spread:
    if not samples:
        return Spread()
    ranked = sorted(samples)
    p50, p90, p95, p99, p999 = (percentile(ranked, permille) for permille in (500, 900, 950, 990, 999))
    return Spread(sum(ranked) / len(ranked), p50, p90, p95, p99, p999, ranked[-1])


class Tally:
    """The counted requests of one run, in columns of milliseconds: `late_ms` of all, `latency_ms` of those that waited for an
    answer, `stages_ms` of those that got one."""

    def __init__(self, load: Load, start_s: float, end_s: float) -> None:
        self._load = load
        self._start_s = start_s
        self._end_s = end_s
        self.outcomes: Counter[str] = Counter()
        self.arrived = 0
        self.sent = 0
        self.longest_ms = 0.0
        self.interrupted = 0
        self.late_ms = array("d")
        self.latency_ms = array("d")
        self.stages_ms = {stage: array("d") for stage in ((LATE,) if load.open else ()) + (*STAGES, TRANSPORT)}

    def add(self, row: Row) -> None:
        if row.done < self._start_s:
            return
        latency_ms, late_ms = (row.done - row.due) * 1e3, (row.sent - row.due) * 1e3
        self.sent += self._start_s <= row.sent < self._end_s
        self.arrived += row.outcome == OK and row.done < self._end_s
        self.longest_ms = max(self.longest_ms, latency_ms)
        if row.outcome == INTERRUPTED:
            self.interrupted += 1
            return
        if row.due < self._start_s and row.outcome not in IN_VAIN:
            return
        self.outcomes[row.outcome] += 1
        self.late_ms.append(late_ms)
        if row.outcome == OK or row.outcome in IN_VAIN:
            self.latency_ms.append(latency_ms)
        if row.outcome == OK:
            self._add_stages(row, latency_ms, late_ms)

    def _add_stages(self, row: Row, latency_ms: float, late_ms: float) -> None:
        """The rest is what makes the stages of a request add up to its latency."""
        rest = latency_ms - sum(row.stages_ms)
        if self._load.open:
            self.stages_ms[LATE].append(late_ms)
            rest -= late_ms
        for stage, took in zip((*STAGES, TRANSPORT), (*row.stages_ms, rest), strict=True):
            self.stages_ms[stage].append(took)


def figures(load: Load, taken: Taken, start_s: float, stop_s: float) -> Figures:
    """`start_s`, `stop_s`: when the run began to measure and meant to end, in seconds from its start."""
    end_s = min(stop_s, taken.ended_s)
    duration_s = max(end_s - start_s, 1e-9)
    tally = Tally(load, start_s, end_s)
    for row in taken.records:
        tally.add(row)
    errors = Counter(tally.outcomes)
    ok, unanswered = errors.pop(OK, 0), errors.pop(UNANSWERED, 0)
    counted = tally.outcomes.total()
    found = Figures(
        concurrency=load.concurrency,
        rate=load.rate,
        duration_s=duration_s,
        requests=counted + taken.missed,
        ok=ok,
        qps=tally.arrived / duration_s,
        offered_qps=tally.sent / duration_s,
        latency_ms=spread(tally.latency_ms),
        longest_unanswered_ms=tally.longest_ms,
        unanswered=unanswered,
        missed=taken.missed,
        errors=dict(errors.most_common()),
        stages_ms={stage: spread(column) for stage, column in tally.stages_ms.items()},
        generator_late_ms=spread(tally.late_ms if load.open else taken.ticks_ms),
        generator_cpu_us=taken.cpu_s / max(1, tally.sent) * 1e6,
        generator_cores=taken.busiest_s / duration_s,
        repeated=taken.repeated,
        interrupted=taken.ended_s < stop_s,
        notes=(),
    )
    return _with_notes(found, load, taken, tally.interrupted)


# ---- what a reader must know about a row ---------------------------------------------------------------------------------


def _with_notes(found: Figures, load: Load, taken: Taken, interrupted: int) -> Figures:
    of_generator = (_not_offered(found), _late(found, load), _busy(found))
    sentences = (*of_generator, _in_vain(found), _repeated(found, taken), _cut(found, interrupted))
    return replace(found, notes=tuple(f"{load}: {sentence}" for sentence in sentences if sentence))


def _not_offered(found: Figures) -> str:
    if found.missed <= (1 - OFFERED_LEAST) * found.rate * found.duration_s:
        return ""
    return (
        f"the generator could send only {found.offered_qps:,.0f} of {found.rate:,.0f} requests a second: "
        "this is its limit, not the pool's (take more --processes, or another machine)"
    )


def _late(found: Figures, load: Load) -> str:
    late = found.generator_late_ms
    if late.p99 <= max(LATE_NOTED_MS, LATE_SHARE * found.latency_ms.p50):
        return ""
    counted = "which the latencies include" if load.open else "so this machine is too busy to measure well"
    return f"the generator itself was late, {late.p99:.1f} ms at p99 and {late.max:.1f} ms at most, {counted}"


def _busy(found: Figures) -> str:
    if found.generator_cores <= BUSY_MOST:
        return ""
    return f"a generator process used {found.generator_cores:.2f} of a core: this measures the client, take more --processes"


def _in_vain(found: Figures) -> str:
    waited = found.unanswered + found.errors.get(DeadlineExceeded.code, 0)
    if not waited:
        return ""
    return f"{waited:,} requests got no answer; the percentiles count them with the time they waited, a lower bound"


def _repeated(found: Figures, taken: Taken) -> str:
    if not taken.repeated:
        return ""
    return f"the queries ran out, {taken.repeated:,} of {taken.asked:,} were asked before in this run (give more with --queries)"


def _cut(found: Figures, interrupted: int) -> str:
    if not found.interrupted:
        return ""
    of_open = f"; {interrupted:,} requests that were open then count in the longest alone" if interrupted else ""
    return f"interrupted, measured for {found.duration_s:.1f} s{of_open}"
