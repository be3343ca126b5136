"""Looks and literal times in, verdicts out."""

import pytest
from ragpool.supervisor.watch import LOOK_S, Look, Verdict, Watch, WatchRules


def verdict_after(seconds, look, *, rules=None, loading=False):
    """Looks twice a second; the first verdict and its time, or None."""
    watch = Watch(rules or WatchRules(), 0.0)
    now = 0.0
    while now < seconds:
        now += LOOK_S
        verdict = watch.look(look(now), now, loading=loading)
        if verdict is not None:
            return now, verdict
    return None


def test_a_batch_that_does_not_end_hangs_though_the_heart_beats():
    found = verdict_after(100, lambda now: Look(beat=int(now * 10), batch=7, process="S"))
    assert found == (31.0, Verdict("hung in a batch for 30 s", hung=True))


def test_where_batches_take_long_more_is_allowed():
    found = verdict_after(100, lambda now: Look(beat=int(now * 10), batch=7, p99_s=2.0, process="S"))
    assert found == (41.0, Verdict("hung in a batch for 40 s", hung=True))


def test_batches_that_end_never_hang():
    assert verdict_after(1000, lambda now: Look(beat=int(now * 10), batch=int(now / 29), process="R")) is None


def test_an_idle_worker_never_hangs():
    assert verdict_after(1000, lambda now: Look(beat=int(now * 10), process="S")) is None


def test_a_loop_that_does_not_turn_hangs_later_than_it_is_silent():
    found = verdict_after(100, lambda now: Look(beat=1, process="R"))
    assert found == (31.0, Verdict("hung: its loop has not turned for 30 s", hung=True))


def test_fifteen_seconds_without_a_beat_are_forgiven():
    assert verdict_after(1000, lambda now: Look(beat=int(now / 15), process="R")) is None


def test_a_stopped_process_is_ended_at_once_when_its_time_is_up():
    found = verdict_after(100, lambda now: Look(beat=1, batch=7, process="T"))
    assert found == (10.5, Verdict("stopped for 10 s by a signal", hung=False))


def test_a_stop_counts_from_when_it_was_seen_and_not_from_the_last_beat():
    found = verdict_after(100, lambda now: Look(beat=1, process="R" if now < 25 else "T"))
    assert found == (35.0, Verdict("stopped for 10 s by a signal", hung=False))


def test_short_stops_do_not_add_up_and_are_no_silence():
    def look(now):
        return Look(beat=int(now / 8), batch=int(now / 8), process="T" if now % 8 < 7 else "R")

    assert verdict_after(1000, look) is None


def test_the_time_it_was_stopped_is_no_hang():
    """A broker is left alone while it is stopped, and has all its time when it wakes."""
    rules = WatchRules(stopped_max_s=None)
    found = verdict_after(1000, lambda now: Look(beat=1, process="T" if now < 600 else "R"), rules=rules)
    assert found == (630.0, Verdict("hung: its loop has not turned for 30 s", hung=True))


def test_whoever_debugs_a_worker_is_not_disturbed():
    assert verdict_after(1000, lambda now: Look(beat=1, batch=7, process="t")) is None


def test_while_it_loads_only_a_stop_is_judged():
    assert verdict_after(1000, lambda now: Look(beat=0, batch=7, process="R"), loading=True) is None
    assert verdict_after(1000, lambda now: Look(beat=0, process="T"), loading=True) is not None


def test_what_was_silent_while_it_loaded_starts_afresh():
    watch = Watch(WatchRules(), 0.0)
    now = 0.0
    while now < 300:
        now += LOOK_S
        assert watch.look(Look(beat=0, process="R"), now, loading=True) is None
    assert watch.look(Look(beat=0, process="R"), now + LOOK_S) is None


@pytest.mark.parametrize("pause_s", [60.0, 3600.0])
def test_a_parent_that_stood_still_takes_nobody_for_hung(pause_s):
    watch = Watch(WatchRules(), 0.0)
    for step in range(20):
        assert watch.look(Look(beat=1, batch=7, process="S"), step * LOOK_S) is None
    assert watch.look(Look(beat=1, batch=7, process="S"), 10 + pause_s) is None
    assert watch.look(Look(beat=1, batch=7, process="T"), 2 * (10 + pause_s)) is None
    assert watch.look(Look(beat=1, batch=7, process="T"), 3 * (10 + pause_s)) is None


def test_it_says_what_is_unusual():
    watch = Watch(WatchRules(), 0.0)
    told = []
    for process in "ST tS":
        watch.look(Look(beat=1, process=process), 1.0)
        told.append(watch.detail())
    assert told == ["", "stopped by a signal", "", "held by a debugger", ""]


def test_a_process_that_loads_and_stamps_again_and_again_hashes():
    watch = Watch(WatchRules(), 0.0)
    looks = [(0, True), (5, True), (6, True), (6, True), (7, True), (0, True), (8, False)]
    seen = []
    for turn, (batch, loading) in enumerate(looks):
        watch.look(Look(beat=1, batch=batch, process="R"), LOOK_S * turn, loading=loading)
        seen.append(watch.hashes)
    assert seen == [False, True, True, False, True, False, False]
