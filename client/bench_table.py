"""The figures of a load generator as text: a table that grows row by row, then what its reader must know. Pure: never prints.

Times are milliseconds, stages are means.
"""

from __future__ import annotations

from .bench_records import STAGES
from .bench_summary import LATE, TRANSPORT, Figures, Load

GAP = "  "


def columns(open_loop: bool) -> list[str]:
    head = ["rate/s", "sent/s"] if open_loop else ["concurrency"]
    stages = ([LATE] if open_loop else []) + [*STAGES, TRANSPORT]
    return [*head, "q/s", "p50", "p95", "p99", "max", "longest unanswered", "errors", *stages]


def header(open_loop: bool) -> str:
    titles = columns(open_loop)
    return GAP.join(_padded(title, title) for title in titles)


def row(found: Figures) -> str:
    open_loop = Load(found.concurrency, found.rate).open
    latency = found.latency_ms
    head = [f"{found.rate:g}", _rate(found.offered_qps)] if open_loop else [str(found.concurrency)]
    cells = [
        *head,
        _rate(found.qps),
        *(_ms(value) if latency.max else "-" for value in (latency.p50, latency.p95, latency.p99, latency.max)),
        _ms(found.longest_unanswered_ms),
        str(sum(found.errors.values()) + found.unanswered),
        *(_ms(stage.mean) for stage in found.stages_ms.values()),
    ]
    return GAP.join(_padded(cell, title) for cell, title in zip(cells, columns(open_loop), strict=True))


def remarks(found: Figures) -> list[str]:
    """What the row alone does not tell: errors by code, then the notes."""
    codes = {**found.errors, **({"unanswered": found.unanswered} if found.unanswered else {})}
    if not codes:
        return list(found.notes)
    told = ", ".join(f"{count:,} {code}" for code, count in codes.items())
    return [f"{Load(found.concurrency, found.rate)}: {found.requests:,} requests, {found.ok:,} answered, {told}", *found.notes]


def _padded(cell: str, title: str) -> str:
    return cell.rjust(max(len(title), 8))


def _ms(value: float) -> str:
    return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"


def _rate(value: float) -> str:
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"
