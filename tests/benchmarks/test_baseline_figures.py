"""What the comparison with other servers computes: figures of a window, right answers, the ideal queue, the last line."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from baselines import report
from baselines.corpus import fingerprint
from baselines.ideal import Service, ideal_p99, service_s, sojourns
from baselines.records import OURS, PLUGGED, STOCK, Ceiling, Contestant, Round
from baselines.stats import Point, Seen, Window, middle, percentile, point, right
from baselines.tuning import Tuned, installed_versions, options
from hypothesis import given
from hypothesis import strategies as st

# ---- windows -------------------------------------------------------------------------------------------------------


def test_a_window_counts_answers_inside_it_and_the_latency_of_all_that_was_under_way() -> None:
    answered = [Seen(0.0, 0.5), Seen(0.5, 1.5), Seen(1.5, 1.75), Seen(2.5, 4.5)]
    found = point(Window(1.0, 3.0, answered, unanswered=[5.0], failed=2, server_s=0.5, driver_s=0.1))
    assert found.qps == 1.0  # two within two seconds: the first came before, the last after
    assert found.longest_ms == 5000.0  # the one nobody answered
    assert found.p50_ms == 1000.0  # of 0.25, 1, 2 and at least 5 seconds
    assert (found.cpu_ms, found.driver_ms, found.failed) == (250.0, 50.0, 2)


def test_without_any_answer_nothing_looks_fast() -> None:
    found = point(Window(0.0, 1.0, [], [], 0, 0.0, 0.0))
    assert (found.qps, found.p99_ms, found.longest_ms) == (0.0, math.inf, math.inf)


def test_the_middle_is_taken_of_each_figure() -> None:
    rounds = [Point(qps, p50, 1, 1, 1, 1, 0) for qps, p50 in ((1, 30), (3, 20), (2, 10))]
    assert (middle(rounds).qps, middle(rounds).p50_ms) == (2, 20)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_is_one_of_the_values_with_that_share_below_it(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)


# ---- right answers -------------------------------------------------------------------------------------------------

SCORES = {"a": 0.9, "b": 0.8, "c": 0.70000, "d": 0.70001, "e": 0.5}


@pytest.mark.parametrize(
    ("ids", "good"),
    [
        (["a", "b", "d"], True),
        (["a", "b", "c"], True),  # nearer to d than float32 tells apart
        (["b", "a", "d"], False),
        (["a", "b", "e"], False),
        (["a", "b", "x"], False),
        (["a", "b"], False),
        (["a", "b", "b"], False),
    ],
)
def test_ids_are_right_where_each_place_has_the_score_that_belongs_there(ids: list[str], good: bool) -> None:
    assert right(ids, SCORES, 3) is good


# ---- the ideal queue -----------------------------------------------------------------------------------------------


def test_a_batch_is_what_waits_when_a_server_gets_free() -> None:
    measured = Service({1: 1.0, 2: 1.5, 4: 2.0})
    assert sojourns([0.0, 0.1, 0.2, 0.3], measured, most=4, servers=1) == pytest.approx([1.0, 2.65, 2.55, 2.45])
    assert sojourns([0.0, 0.1, 0.2, 0.3], measured, most=4, servers=2) == pytest.approx([1.0, 1.0, 2.3, 2.2])


def test_between_measured_sizes_time_grows_in_a_line() -> None:
    measured = {1: 1.0, 4: 4.0, 8: 6.0}
    assert [service_s(measured, size) for size in (1, 2, 6, 8, 16)] == [1.0, 2.0, 5.0, 6.0, 12.0]


def test_what_batches_took_is_read_off_the_answers_that_tell_the_same() -> None:
    answers = [(0.5, 1.5)] + 3 * [(1.0, 5.0)] + [(0.5, 9.5)] * 5  # one, three and five in 2, 6 and 10 ms
    told = Service.told(answers, (1, 2, 8))
    assert told is not None
    assert told.seconds == pytest.approx({1: 0.002, 2: 0.004, 8: 0.016})
    assert told.parts == pytest.approx([1.0, 1.0, 1.0])
    of_one_size = Service.told(2 * [(1.0, 3.0)], (1, 4))
    assert of_one_size is not None
    assert of_one_size.seconds == pytest.approx({1: 0.004, 4: 0.004})
    assert Service.told([], (1, 4)) is None


def test_batches_of_a_size_do_not_all_take_the_same() -> None:
    measured = Service.measured({1: [1.0, 3.0], 2: [4.0]})
    assert measured.seconds == {1: 2.0, 2: 4.0}
    assert measured.parts == [0.5, 1.5, 1.0]
    told = Service.told([(1.0,), (3.0,), (5.0,), (5.0,), (5.0,)], (1, 3))
    assert told is not None
    assert told.seconds == pytest.approx({1: 0.002, 3: 0.005})
    assert told.parts == pytest.approx([0.5, 1.5, 1.0])
    steady, uneven = (
        ideal_p99([n * 2.0 for n in range(2000)], Service({1: 1.5}, parts), servers=1) for parts in ([1.0], [0.4, 1.6])
    )
    assert steady[0] == pytest.approx(1.5)
    assert uneven[0] > 2 * steady[0]


arrivals_lists = st.lists(st.floats(0, 100), min_size=1, max_size=60).map(sorted)


@given(arrivals_lists, st.integers(1, 8), st.integers(1, 3))
def test_each_arrival_leaves_once_and_not_before_its_batch_could_have_run(arrivals: list[float], most: int, servers: int) -> None:
    found = sojourns(arrivals, Service({1: 1.0, 8: 2.0}), most, servers)
    assert len(found) == len(arrivals)
    assert all(time >= 1.0 - 1e-9 for time in found)


@given(arrivals_lists)
def test_one_server_without_batches_is_the_plain_queue(arrivals: list[float]) -> None:
    free, wanted = 0.0, []
    for arrival in arrivals:
        free = max(free, arrival) + 1.0
        wanted.append(free - arrival)
    assert sojourns(arrivals, Service({1: 1.0}), most=1, servers=1) == pytest.approx(wanted)


def test_the_ideal_takes_the_limit_that_serves_best() -> None:
    arrivals = [n * 0.3 for n in range(2000)]
    p99, most = ideal_p99(arrivals, Service({1: 1.0, 8: 1.2}), servers=1)
    assert most == 8
    assert p99 < 3


# ---- what is printed -----------------------------------------------------------------------------------------------


def row(name: str, kind: str, qps: float, p99_ms: float) -> report.Row:
    at = Point(qps, 1.0, p99_ms, 200.0, 3.0, 0.1, 0)
    one = Round({1: at, 100: at}, {10: 5.0, 100: 50.0}, 700.0, 60, 0, 3.0, 0.8 * qps, [1.0, p99_ms])
    return report.Row(Contestant(name, "module", "/", kind), [one])


OFFLINE = report.Offline(Ceiling(500.0, 4.0, 8), 10.0, report.Ideal(20.0, 8), report.Ideal(40.0, 16))


def test_the_last_line_names_the_best_stock_server_not_one_with_our_engine() -> None:
    rows = [row("ragpool", OURS, 450, 20), row("slow", STOCK, 50, 90), row("fast", STOCK, 150, 50), row("fast", PLUGGED, 300, 30)]
    assert report.last_line(rows, OFFLINE.ceiling) == "ceiling 0.90, best baseline 3.00 (fast)"


def test_a_server_that_did_not_start_is_a_row_that_says_why() -> None:
    failed = report.Row(Contestant("gone", "module", "/", STOCK), [], "it ended with 1: no such module")
    rows = [row("ragpool", OURS, 450, 20), failed]
    assert "it ended with 1: no such module" in report.table(rows, [1, 100], OFFLINE.ceiling)
    assert report.last_line(rows, OFFLINE.ceiling) == "ceiling 0.90, best baseline none ran"


def test_the_ratios_say_where_another_server_is_ahead() -> None:
    rows = [row("ragpool", OURS, 450, 40), row("quick", STOCK, 150, 30)]
    lines = "\n".join(report.ratios(rows, [1, 100], OFFLINE))
    assert "q/s at 100 to the ceiling's: 0.90" in lines
    assert "quick: stock at 100 in p99" in lines
    assert "in q/s;" not in lines


# ---- tuning --------------------------------------------------------------------------------------------------------


def test_the_best_options_are_kept_for_the_conditions_they_were_found_under(tmp_path) -> None:  # type: ignore[no-untyped-def]
    server = Contestant("any", "module", "/", STOCK, batches=True, tune_workers=True)
    assert [(one.batch, one.workers) for one in options(server)][:5] == [(4, 1), (8, 1), (16, 1), (32, 1), (4, 2)]
    here = {"processor": "this"}
    tuned = Tuned.read(tmp_path / "tuned.json", here)
    assert tuned.best(server) == server
    tuned.tried[server.key] = [{"batch": 4, "workers": 2, "qps": 9.0}, {"batch": 32, "workers": 1, "qps": 5.0}]
    tuned.keep()
    best = Tuned.read(tmp_path / "tuned.json", here).best(server)
    assert (best.batch, best.workers) == (4, 2)
    assert Tuned.read(tmp_path / "tuned.json", {"processor": "another"}).tried == {}


# ---- the corpus ----------------------------------------------------------------------------------------------------


def test_each_data_has_an_index_of_its_own(tmp_path: Path) -> None:
    found = set()
    for folder, text in (("a", "{}"), ("b", "{}"), ("b", "{} ")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "corpus.jsonl").write_text(text)
        found.add(fingerprint([tmp_path / folder / "corpus.jsonl"]))
        assert fingerprint([tmp_path / folder / "corpus.jsonl"]) in found
    assert len(found) == 3


def test_versions_of_servers_that_are_not_there_are_none(tmp_path: Path) -> None:
    assert installed_versions(tmp_path / "python") == {}
    assert set(installed_versions(Path(sys.executable))) <= {"fastapi", "litserve", "mosec", "ray", "uvicorn"}
