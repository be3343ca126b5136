"""[P] What a window of load says, medians of rounds, whether the ids that came are the right ones. Numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median

SCORE_SLACK = 2e-5
"""Passages whose scores are nearer than this may stand for each other: float32 runtimes differ by about 1e-6 in a score near 1.
Half precision or int8 differ by 1e-3 and more, and would be found out."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request: when it began and when its answer was there, in seconds of one clock."""

    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Window:
    """One closed loop: its counted window [start, end), all answers, ages of what was given up on, refusals, CPU seconds."""

    start: float
    end: float
    answered: Sequence[Seen]
    unanswered: Sequence[float]
    failed: int
    server_s: float
    driver_s: float


@dataclass(frozen=True, slots=True)
class Point:
    """A server at one concurrency. CPU of the server's processes and of the load generator is per answered query."""

    qps: float
    p50_ms: float
    p99_ms: float
    longest_ms: float
    cpu_ms: float
    driver_ms: float
    failed: float


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank. Infinite without any value: nobody was answered."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else float("inf")


def point(window: Window) -> Point:
    """Percentiles are of every request that was under way in the window; an unanswered one counts with its age, which is less
    than it would have taken."""
    inside = sum(window.start <= seen.ended < window.end for seen in window.answered)
    latencies = [seen.ended - seen.began for seen in window.answered if seen.ended >= window.start]
    waits = [*latencies, *window.unanswered]
    each = max(1, inside)
    return Point(
        qps=inside / (window.end - window.start),
        p50_ms=percentile(waits, 0.5) * 1e3,
        p99_ms=percentile(waits, 0.99) * 1e3,
        longest_ms=max(waits, default=float("inf")) * 1e3,
        cpu_ms=window.server_s / each * 1e3,
        driver_ms=window.driver_s / each * 1e3,
        failed=window.failed,
    )


def middle(points: Sequence[Point]) -> Point:
    """The median of each figure over the rounds."""
    return Point(**{field.name: median(getattr(one, field.name) for one in points) for field in fields(Point)})


def right(ids: Sequence[str], scores: Mapping[str, float], top_k: int) -> bool:
    """Whether `ids` are a right answer, given the score of every passage that could be in one.

    They are where each place holds a passage with the score that belongs there, within `SCORE_SLACK`.
    """
    wanted = sorted(scores.values(), reverse=True)[:top_k]
    found = [scores.get(id_) for id_ in ids]
    return (
        len(set(ids)) == len(ids) == len(wanted)
        and all(score is not None for score in found)
        and all(abs(score - want) <= SCORE_SLACK for score, want in zip(found, wanted, strict=True) if score is not None)
    )
