"""Who is asked first, and how much of what waits it gets."""

from __future__ import annotations

import pytest
from ragpool.broker.lineup import Lineup
from ragpool.broker.pending import Pending
from ragpool.broker.states import LEAVING
from ragpool.broker.workers import Worker
from ragpool.wire.messages import Register, Request

COST = 100.0


def worker(name: str, seconds: float | None = None, max_batch: int = 8) -> Worker:
    """A ready one that takes `seconds` for `COST`, as far as was measured."""
    made = Worker(name.encode(), Register(name, "ready", max_batch=max_batch), 0.0)
    if seconds is not None:
        made.fit.observe(COST, seconds)
    return made


def load(made: Worker, now: float, cost: float = COST, number: int = 0) -> None:
    pending = Pending(Request(number.to_bytes(16, "big"), "search", 1), b"c", now)
    pending.cost = cost
    made.sent([pending], now)


def lineup_of(*workers: Worker) -> Lineup:
    lineup = Lineup()
    lineup.usual(COST)
    for each in workers:
        lineup.place(each, 0.0)
    return lineup


def test_the_fastest_idle_worker_is_asked_first() -> None:
    assert lineup_of(worker("slow", 1.0), worker("fast", 0.1), worker("middle", 0.5)).least_busy(COST).peer == b"fast"


def test_a_worker_that_was_never_measured_is_tried() -> None:
    assert lineup_of(worker("fast", 0.1), worker("new")).least_busy(COST).peer == b"new"


def test_among_equals_the_longest_idle_is_asked() -> None:
    first, second = worker("first", 0.1), worker("second", 0.1001)
    lineup = lineup_of(first, second)
    assert lineup.least_busy(COST) is first
    lineup.place(first, 1.0)
    assert lineup.least_busy(COST) is second


@pytest.mark.parametrize(
    ("items", "idle", "soon", "size"),
    [(10, 2, 0, 5), (100, 2, 6, 13), (1, 2, 0, 1), (4, 1, 1, 2), (126, 2, 6, 16), (127, 2, 6, 32)],
)
def test_what_waits_is_shared_with_all_that_are_free_soon(items: int, idle: int, soon: int, size: int) -> None:
    workers = [worker(f"idle {n}", 1.0, 32) for n in range(idle)] + [worker(f"soon {n}", 1.0, 32) for n in range(soon)]
    for number, busy in enumerate(workers[idle:]):
        load(busy, 0.0, number=number)
    far = worker("far", 1.0)
    load(far, 0.0, cost=100_000.0, number=99)
    assert lineup_of(*workers, far).batch_size(items, COST * items, 0.9) == size


def test_one_that_should_have_been_free_long_ago_shares_in_nothing() -> None:
    idle, stalled = worker("idle", 1.0), worker("stalled", 1.0)
    load(stalled, 0.0)
    lineup = lineup_of(idle, stalled)
    assert lineup.batch_size(4, 4 * COST, 1.0) == 2
    assert lineup.batch_size(4, 4 * COST, 3.4) == 2
    assert lineup.batch_size(4, 4 * COST, 3.6) == 4, "the 2.5 s that these four would take have passed"


def test_a_full_batch_is_parked_where_it_starts_soonest_and_only_while_nobody_is_idle() -> None:
    late, soon, idle = worker("late", 1.0, 4), worker("soon", 0.2, 4), worker("idle", 1.0)
    load(late, 0.0, number=1)
    load(soon, 0.0, number=2)
    lineup = lineup_of(late, soon, idle)
    assert lineup.parking_place(4, 4 * COST, 0.0) is None
    lineup.remove(idle)
    assert lineup.parking_place(3, 3 * COST, 0.0) is None, "three are no full batch"
    assert lineup.parking_place(4, 4 * COST, 0.0) is soon
    load(soon, 0.0, number=3)
    lineup.place(soon, 0.0)
    assert lineup.parking_place(4, 4 * COST, 0.0) is None, "it is still the one that is free soonest, and it is full"


def test_nothing_is_parked_where_the_way_there_and_back_is_next_to_nothing() -> None:
    near, unknown = worker("near", 1.0, 1), worker("unknown", 1.0, 1)
    for each in (near, unknown):
        load(each, 0.0)
        each.returned(bytes(16), 0.0 if each is unknown else 0.995, 1.0)
        load(each, 1.0, number=1)
    assert lineup_of(near).parking_place(1, COST, 1.5) is None
    assert lineup_of(unknown).parking_place(1, COST, 1.5) is unknown
    near.returned((1).to_bytes(16, "big"), 0.5, 2.0)
    load(near, 2.0, number=2)
    assert lineup_of(near).parking_place(1, COST, 2.5) is near, "it took half a second to get there and back"


def test_a_parked_batch_says_nothing_of_the_way_there_and_back() -> None:
    busy = worker("busy", 1.0, 1)
    load(busy, 0.0, number=1)
    load(busy, 0.1, number=2)
    busy.returned((1).to_bytes(16, "big"), 0.9, 1.0)
    assert busy.away_s == pytest.approx(0.1)
    busy.returned((2).to_bytes(16, "big"), 0.5, 2.0)
    assert busy.away_s == pytest.approx(0.1)


def test_one_that_drains_or_runs_suspects_is_not_asked() -> None:
    draining, suspect = worker("draining"), worker("suspect")
    draining.state.on(LEAVING, 0.0)
    suspect.sent([Pending(Request(b"i" * 16, "search"), b"c", 0.0)], 0.0, trial=True)
    lineup = lineup_of(draining, suspect)
    assert (lineup.idle, lineup.parking_place(1, COST, 0.0)) == (0, None)
