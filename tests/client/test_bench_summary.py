"""Schedules, records and figures of a load generator: pure, with simulated servers in virtual time."""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Callable
from itertools import islice, takewhile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ragpool.client import bench_table
from ragpool.client.bench_arrivals import CONSTANT, POISSON, arrivals
from ragpool.client.bench_records import INTERRUPTED, OK, STAGES, UNANSWERED, Records, Taken, merged
from ragpool.client.bench_summary import LATE, TRANSPORT, Figures, Load, figures, percentile, spread

DEADLINE = "deadline_exceeded"
OPEN, CLOSED = Load(rate=100.0), Load(concurrency=10)


def taken(records: Records, ended_s: float = 11.0, missed: int = 0, ticks_ms: tuple[float, ...] = (), repeated: int = 0) -> Taken:
    return Taken(records, ended_s, list(ticks_ms), 1.0, 1.0, missed, len(records), repeated)


# ---- schedules ---------------------------------------------------------------------------------------------------------


def test_constant_arrivals_are_even() -> None:
    assert list(islice(arrivals(CONSTANT, 4.0, 0, 1, 0), 5)) == [0.0, 0.25, 0.5, 0.75, 1.0]


@given(rate=st.floats(0.1, 1e5), shares=st.integers(1, 8))
def test_parts_of_a_constant_schedule_are_the_whole(rate: float, shares: int) -> None:
    parts = [list(islice(arrivals(CONSTANT, rate, share, shares, 0), 20)) for share in range(shares)]
    assert sorted(at for part in parts for at in part) == list(islice(arrivals(CONSTANT, rate, 0, 1, 0), 20 * shares))


@given(seed=st.integers(), share=st.integers(0, 3))
def test_poisson_arrivals_rise_and_repeat_with_their_seed(seed: int, share: int) -> None:
    first, second = (list(islice(arrivals(POISSON, 50.0, share, 4, seed), 200)) for _ in range(2))
    assert first == second
    assert all(earlier < later for earlier, later in zip([0.0, *first], first))
    assert first != list(islice(arrivals(POISSON, 50.0, share + 1, 4, seed), 200))


@pytest.mark.parametrize("shares", [1, 3])
def test_poisson_arrivals_have_the_rate_and_the_spread_of_a_poisson_process(shares: int) -> None:
    parts = [takewhile(lambda at: at < 100, arrivals(POISSON, 200.0, share, shares, 7)) for share in range(shares)]
    gaps = np.diff(np.array(list(heapq.merge(*parts))))
    assert len(gaps) == pytest.approx(20_000, abs=5 * math.sqrt(20_000))
    assert np.std(gaps) == pytest.approx(np.mean(gaps), rel=0.05)


# ---- percentiles -------------------------------------------------------------------------------------------------------

samples = st.lists(st.floats(0, 1e6), min_size=1, max_size=400)


@given(samples)
def test_percentiles_are_numpys_of_the_same_definition(values: list[float]) -> None:
    found = spread(values)
    wanted = np.percentile(values, [50, 90, 95, 99, 99.9], method="inverted_cdf")
    assert [found.p50, found.p90, found.p95, found.p99, found.p999] == wanted.tolist()
    assert found.max == max(values)
    assert found.mean == pytest.approx(np.mean(values))


@given(samples, st.integers(1, 1000))
def test_a_percentile_is_the_least_sample_that_is_enough(values: list[float], permille: int) -> None:
    found = percentile(sorted(values), permille)
    assert 1000 * sum(value <= found for value in values) >= permille * len(values)
    assert 1000 * sum(value < found for value in values) < permille * len(values)


def test_no_samples_are_no_figures() -> None:
    assert spread([]).max == 0.0
    assert figures(OPEN, taken(Records()), 1.0, 11.0).ok == 0


# ---- what is counted ---------------------------------------------------------------------------------------------------


def server_that_stalls(at: float, seconds: float) -> Callable[[float], float]:
    """Answers one request at a time, 1 ms each, and stands still once; from begin to end of service."""
    free = 0.0

    def serve(sent: float) -> float:
        nonlocal free
        begin = max(sent, free)
        if begin <= at + seconds and begin + 0.001 > at:
            begin = max(begin, at + seconds)
        free = begin + 0.001
        return free

    return serve


def open_loop(serve: Callable[[float], float], rate: float, stop_s: float) -> Figures:
    records = Records()
    for due in takewhile(lambda at: at < stop_s, arrivals(CONSTANT, rate, 0, 1, 0)):
        records.add(due, due, serve(due), OK)
    return figures(Load(rate=rate), taken(records, stop_s), 1.0, stop_s)


def closed_loop(serve: Callable[[float], float], stop_s: float) -> Figures:
    records, now = Records(), 0.0
    while now < stop_s:
        done = serve(now)
        records.add(now, now, done, OK)
        now = done
    return figures(Load(concurrency=1), taken(records, stop_s), 1.0, stop_s)


def test_a_stall_of_a_second_shows_in_the_open_loop_and_hides_in_the_closed_one() -> None:
    """Coordinated omission: one caller that waits asks one question during the stall, a schedule asks a hundred."""
    opened = open_loop(server_that_stalls(5.0, 1.0), 100.0, 11.0)
    closed = closed_loop(server_that_stalls(5.0, 1.0), 11.0)
    assert opened.latency_ms.p99 > 850
    assert opened.latency_ms.p50 == pytest.approx(1.0)
    assert closed.latency_ms.p99 == pytest.approx(1.0)
    assert closed.longest_unanswered_ms == pytest.approx(1001.0, abs=1.0)


def test_a_generator_that_was_late_counts_from_when_the_request_was_due() -> None:
    records = Records()
    for n in range(100):
        records.add(2.0 + n / 100, 2.5 + n / 100, 2.51 + n / 100, OK)
    found = figures(OPEN, taken(records), 1.0, 11.0)
    assert found.latency_ms.p50 == pytest.approx(510)
    assert found.stages_ms[LATE].mean == pytest.approx(500)
    assert found.stages_ms[TRANSPORT].mean == pytest.approx(10)
    assert any("generator itself was late, 500.0 ms" in note for note in found.notes)


def test_a_rate_that_could_not_be_sent_is_said() -> None:
    records = Records()
    for n in range(500):
        records.add(1.0 + n / 100, 1.0 + n / 100, 1.01 + n / 100, OK)
    found = figures(OPEN, taken(records, missed=500), 1.0, 11.0)
    assert (found.requests, found.ok, found.missed, found.offered_qps) == (1000, 500, 500, 50.0)
    assert any("could send only 50 of 100 requests a second" in note for note in found.notes)
    assert not figures(OPEN, taken(records, missed=5), 1.0, 11.0).notes


def test_the_warm_up_is_not_counted_but_its_answers_arrive() -> None:
    records = Records()
    records.add(0.2, 0.2, 0.9, OK)  # all of it before
    records.add(0.5, 0.5, 1.5, OK)  # asked before, answered while it measured
    records.add(2.0, 2.0, 2.1, OK)
    records.add(10.9, 10.9, 11.4, OK)  # asked while it measured, answered after
    found = figures(CLOSED, taken(records), 1.0, 11.0)
    assert (found.requests, found.ok, found.qps) == (2, 2, 0.2)
    assert found.latency_ms.max == pytest.approx(500)
    assert found.longest_unanswered_ms == pytest.approx(1000)


def test_what_is_still_open_at_the_end_counts_with_its_waiting() -> None:
    records = Records()
    records.add(2.0, 2.0, 2.1, OK)
    records.add(3.0, 3.0, 13.0, UNANSWERED)
    records.add(0.5, 0.5, 13.0, UNANSWERED)  # since the warm-up
    found = figures(CLOSED, taken(records), 1.0, 11.0)
    assert (found.requests, found.ok, found.unanswered, found.errors) == (3, 1, 2, {})
    assert found.longest_unanswered_ms == pytest.approx(12_500)
    assert found.latency_ms.p99 == pytest.approx(12_500)
    assert any("2 requests got no answer" in note for note in found.notes)


def test_of_the_warm_up_only_what_waited_in_vain_beyond_it_counts() -> None:
    records = Records()
    records.add(0.1, 0.1, 0.9, DEADLINE)  # given up before anything was measured
    records.add(0.2, 0.2, 1.1, "no_workers")  # an answer of a kind, of the warm-up
    records.add(0.5, 0.5, 6.5, DEADLINE)
    records.add(2.0, 2.0, 2.1, OK)
    found = figures(CLOSED, taken(records), 1.0, 11.0)
    assert (found.requests, found.ok, found.unanswered, found.errors) == (2, 1, 0, {DEADLINE: 1})
    assert found.latency_ms.max == pytest.approx(6_000)


def test_an_error_that_came_at_once_is_no_fast_answer() -> None:
    records = Records()
    for n in range(99):
        records.add(2.0 + n / 100, 2.0 + n / 100, 2.001 + n / 100, "no_workers")
    records.add(3.0, 3.0, 3.2, OK)
    records.add(3.0, 3.0, 9.0, DEADLINE)
    found = figures(CLOSED, taken(records), 1.0, 11.0)
    assert found.errors == {"no_workers": 99, DEADLINE: 1}
    assert found.latency_ms.p50 == pytest.approx(200)
    assert found.latency_ms.max == pytest.approx(6000)


def test_an_interrupted_run_is_as_long_as_it_was() -> None:
    records = Records()
    for n in range(300):
        records.add(n / 100, n / 100, n / 100 + 0.01, OK)
    found = figures(CLOSED, taken(records, ended_s=3.0), 1.0, 11.0)
    assert found.interrupted
    assert found.duration_s == pytest.approx(2.0)
    assert found.qps == pytest.approx(100, rel=0.02)


def test_what_is_open_when_an_operator_cuts_a_run_short_is_no_failure_and_no_latency() -> None:
    """They were called unanswered, and the few milliseconds that they had waited were in the percentiles."""
    records = Records()
    for n in range(100):
        records.add(1 + n / 100, 1 + n / 100, 1 + n / 100 + 0.05, OK)
    for due in (1.995, 1.996, 1.997, 0.2):
        records.add(due, due, 2.0, INTERRUPTED)
    found = figures(CLOSED, taken(records, ended_s=2.0), 1.0, 11.0)
    assert (found.requests, found.ok, found.unanswered, found.errors) == (100, 100, 0, {})
    assert found.latency_ms.p50 == pytest.approx(50)
    assert found.longest_unanswered_ms == pytest.approx(1800)
    told = "concurrency 10: interrupted, measured for 1.0 s; 4 requests that were open then count in the longest alone"
    assert found.notes[-1] == told


def test_queries_that_ran_out_are_said() -> None:
    records = Records()
    records.add(2.0, 2.0, 2.1, OK)
    assert any("3 of 1 were asked before" in note for note in figures(CLOSED, taken(records, repeated=3), 1.0, 11.0).notes)


rows = st.lists(
    st.tuples(
        st.floats(0, 10.9), st.floats(0, 1), st.floats(0, 3), st.sampled_from([OK, OK, UNANSWERED, "no_workers", DEADLINE]),
        st.fixed_dictionaries({stage: st.floats(0, 100) for stage in STAGES}),
    ),
    max_size=60,
)  # fmt: skip


def recorded(drawn: list[tuple[float, float, float, str, dict[str, float]]]) -> Records:
    records = Records()
    for due, late, took, outcome, timings_ms in drawn:
        records.add(due, due + late, due + late + took, outcome, timings_ms)
    return records


@given(rows, st.integers(0, 5), st.sampled_from([OPEN, CLOSED]))
def test_every_request_is_counted_once_and_stages_add_up(drawn: list, missed: int, load: Load) -> None:
    found = figures(load, taken(recorded(drawn), missed=missed), 1.0, 11.0)
    assert found.requests == found.ok + sum(found.errors.values()) + found.unanswered + found.missed
    answered = [(late + took) * 1e3 for due, late, took, outcome, _ in drawn if outcome == OK and due >= 1.0]
    assert found.ok == len(answered)
    assert sum(stage.mean for stage in found.stages_ms.values()) == pytest.approx(float(np.mean(answered or [0])), abs=1e-3)
    assert found.longest_unanswered_ms >= found.latency_ms.max - 1e-6
    json.dumps(found.errors)


@given(rows, rows)
def test_parts_of_processes_give_the_figures_of_one(one: list, other: list) -> None:
    parts = [taken(Records.from_json(json.loads(json.dumps(recorded(drawn).to_json()))), missed=1) for drawn in (one, other)]
    whole = taken(recorded(one + other), missed=2)
    both = merged(parts)
    assert list(both.records) == list(whole.records)
    assert both.missed == 2
    assert figures(OPEN, both, 1.0, 11.0).latency_ms == figures(OPEN, whole, 1.0, 11.0).latency_ms


# ---- the table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [OPEN, CLOSED])
def test_a_row_stands_under_its_header(load: Load) -> None:
    records = recorded([(2.0, 0.0, 0.25, OK, dict.fromkeys(STAGES, 1.0)), (3.0, 0.0, 0.1, "no_workers", {})])
    found = figures(load, taken(records), 1.0, 11.0)
    header, row = bench_table.header(load.open), bench_table.row(found)
    assert len(header) == len(row)
    assert len(row.split()) == len(bench_table.columns(load.open))
    assert "250" in row
    assert bench_table.remarks(found)[0] == f"{load}: 2 requests, 1 answered, 1 no_workers"
