"""Deadlines fire once, in time, and leave nothing behind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from ragpool.broker.timers import TimerWheel

KEYS = st.integers(0, 20).map(lambda n: b"%d" % n)


@given(st.lists(st.tuples(st.sampled_from(["set", "drop", "due"]), KEYS, st.floats(0, 100)), max_size=60))
def test_each_deadline_fires_once_never_early_and_at_most_a_slot_late(steps: list[tuple[str, bytes, float]]) -> None:
    wheel, expected = TimerWheel(0.005), {}
    now = 0.0
    for step, key, when in steps:
        if step == "set":
            wheel.set(key, now + when)
            expected[key] = now + when
        elif step == "drop":
            wheel.drop(key)
            expected.pop(key, None)
        else:
            now += when
            fired = wheel.due(now)
            assert all(expected.pop(key) <= now for key in fired)
            assert all(when > now - 0.0051 for when in expected.values())
        soonest = wheel.next()
        assert (soonest is None) == (not expected)
        assert soonest is None or min(expected.values()) <= soonest <= min(expected.values()) + 0.0051
    assert len(wheel) == len(expected)


def test_answered_requests_with_distant_deadlines_leave_nothing_behind() -> None:
    wheel = TimerWheel()
    for number in range(50_000):
        key = number.to_bytes(16, "big")
        wheel.set(key, number * 1.7)
        wheel.drop(key)
    assert len(wheel) == len(wheel._slots) == 0
    assert len(wheel._order) <= 1024 + 1
