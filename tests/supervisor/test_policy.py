"""The restart policy at literal times."""

from random import Random

import pytest
from ragpool.supervisor.exits import classify
from ragpool.supervisor.policy import (
    BACKOFF,
    QUARANTINED,
    RUNNING,
    STARTING,
    STATES,
    STOPPED,
    TRANSITIONS,
    Ended,
    IllegalTransition,
    Loaded,
    SlotPolicy,
    Spawned,
    Stop,
    Tick,
    Wanted,
    check_invariants,
    next_deadline,
    next_spawns,
)
from ragpool.supervisor.rules import BROKER_RULES, RestartRules, backoff_s

RULES = RestartRules(backoff_jitter=0.0)
FAULT = Ended(classify(1))
KILLED = Ended(classify(-9))
AGAIN = Ended(classify(75))
OURS = Ended(classify(-15, was_ours=True))
WRONG = Ended(classify(78, sentence="no such index"))


class Told:
    """A slot that is told one thing after the other, its laws checked after each."""

    def __init__(self, rules: RestartRules = RULES) -> None:
        self.slot = SlotPolicy("worker-0", rules, Random(1))

    def __call__(self, now: float, *events: object) -> SlotPolicy:
        for event in events:
            self.slot.receive(event, now)
            check_invariants(self.slot)
        return self.slot

    def running(self, now: float) -> "Told":
        if self.slot.state != STARTING:
            self(now, Wanted())
        self(now, Spawned(), Loaded())
        return self

    def until(self, now: float) -> float:
        """Seconds from `now` until the next attempt, which is made."""
        wait = self.slot.wait_s(now)
        self(now + wait, Tick())
        assert self.slot.state == STARTING
        return wait


def test_from_wanted_to_running():
    told = Told()
    assert told(0.0, Wanted()).wants_process
    assert told(0.0, Spawned()).loading
    assert told(9.0, Loaded()).state == RUNNING
    assert not told.slot.loading
    assert told.slot.deadline() is None


def test_backoff_doubles_and_ends_at_its_most():
    told, now, waits = Told(RestartRules(backoff_jitter=0.0, restarts_max=100)), 0.0, []
    told(now, Wanted())
    for _ in range(9):
        told(now, Spawned(), FAULT)
        waits.append(told.until(now))
        now += waits[-1]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_jitter_spreads_by_a_fifth_and_never_beyond_the_most():
    rules, rng = RestartRules(), Random(7)
    drawn = [backoff_s(rules, 1, rng) for _ in range(500)]
    assert 0.8 <= min(drawn) < 0.85
    assert 1.15 < max(drawn) <= 1.2
    assert max(backoff_s(rules, 1000, rng) for _ in range(500)) == 30.0


def test_a_healthy_run_resets_the_backoff():
    told = Told()
    told.running(0.0)(1.0, FAULT)
    told.until(1.0)
    told.running(2.0)(3.0, FAULT)
    assert told.until(3.0) == 1.0
    told.running(4.0)
    assert told.slot.deadline() == 64.0
    told(64.0, Tick())
    assert told.slot.deadline() is None
    assert told(65.0, FAULT).wait_s(65.0) == 0.5


def test_a_healthy_run_counts_also_when_no_tick_came():
    told = Told()
    told.running(0.0)(1.0, FAULT)
    told.until(1.0)
    assert told.running(2.0)(62.0, FAULT).wait_s(62.0) == 0.5


def quarantined(told: Told, now: float = 0.0) -> float:
    """Six faults in a row; returns the time of the last."""
    told(now, Wanted())
    for _ in range(5):
        assert told(now, Spawned(), FAULT).state == BACKOFF
        now += told.until(now)
    assert told(now, Spawned(), FAULT).state == QUARANTINED
    return now


def test_one_end_more_than_allowed_within_the_window_is_quarantine():
    told = Told()
    now = quarantined(told)
    assert now < 60.0
    assert told.slot.deadline() == now + 300.0
    assert told(now + 299.0, Tick()).state == QUARANTINED


def test_ends_outside_the_window_are_forgotten():
    told = Told(RestartRules(backoff_max_s=1.0))
    told(0.0, Wanted())
    for now in range(0, 1300, 13):
        assert told(now, Spawned(), FAULT).state == BACKOFF
        told.until(now)


def test_a_probe_that_fails_leads_straight_back():
    told = Told()
    now = quarantined(told) + 300.0
    assert told(now, Tick()).wants_process
    assert told(now, Spawned(), FAULT).state == QUARANTINED
    assert told.slot.deadline() == now + 300.0


def test_a_probe_that_loads_is_on_parole_until_healthy():
    told = Told()
    now = quarantined(told) + 300.0
    told(now, Tick(), Spawned(), Loaded())
    assert told(now + 59.0, FAULT).state == QUARANTINED
    now += 400.0
    told(now, Tick(), Spawned(), Loaded())
    told(now + 60.0, Tick())
    assert told(now + 61.0, FAULT).state == BACKOFF
    assert told.slot.wait_s(now + 61.0) == 0.5


def test_an_operators_kill_backs_off_but_never_counts():
    told, now = Told(), 0.0
    told(now, Wanted())
    for wait in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        assert told(now, Spawned(), KILLED).state == BACKOFF
        assert told.until(now) == wait
        now += wait
    assert not told.slot.counted


def test_an_operators_kill_of_a_probe_is_no_failed_probe():
    told = Told()
    now = quarantined(told) + 300.0
    assert told(now, Tick(), Spawned(), KILLED).state == BACKOFF


@pytest.mark.parametrize("end", [AGAIN, OURS])
def test_again_is_at_once_and_uncounted(end):
    told = Told()
    for now in range(0, 100, 2):
        told.running(now)
        told(now, end)
        assert told.until(now) == 0.5
    assert not told.slot.counted
    assert told.slot.failures == 0


def test_again_before_it_served_backs_off():
    told = Told()
    told(0.0, Wanted(), Spawned(), AGAIN)
    assert told.until(0.0) == 0.5
    told(0.5, Spawned(), AGAIN)
    assert told.until(0.5) == 1.0


def test_a_configuration_error_is_never_retried():
    told = Told()
    assert told(0.0, Wanted(), Spawned(), WRONG).state == STOPPED
    assert told(1e6, Tick()).state == STOPPED
    assert told.slot.deadline() is None
    assert told.slot.given_up
    assert told(1e6, Wanted()).wants_process
    assert not told.slot.given_up


def test_a_slot_that_was_given_up_and_is_then_drained_is_a_drained_one():
    told = Told()
    told(0.0, Wanted(), Spawned(), WRONG, Stop())
    assert not told.slot.given_up


def test_stop_holds_in_every_state():
    for events in ([], [Wanted()], [Wanted(), Spawned()], [Wanted(), Spawned(), Loaded()], [Wanted(), Spawned(), FAULT]):
        told = Told()
        assert told(0.0, *events, Stop()).state == STOPPED
        if told.slot.alive:
            told(1.0, KILLED)
        assert told(99.0, Tick()).state == STOPPED
        assert not told.slot.alive


def test_a_slot_wanted_again_waits_for_its_old_process():
    told = Told().running(0.0)
    told(1.0, Stop(), Wanted())
    assert not told.slot.wants_process
    assert not told.slot.loading
    assert told(2.0, FAULT).wants_process, "at once, and whatever the old one died of"
    assert told(2.0, Spawned()).loading


def test_a_slot_wanted_again_does_not_listen_to_its_old_process():
    told = Told()
    told(0.0, Wanted(), Spawned(), Stop(), Wanted(), Loaded())
    assert told.slot.state == STARTING
    assert not told.slot.loading


def test_an_operator_ends_a_quarantine():
    told = Told()
    now = quarantined(told)
    assert told(now + 1.0, Wanted()).wants_process
    assert told(now + 1.0, Spawned(), FAULT).state == BACKOFF


def test_the_broker_is_back_at_once_and_never_given_up():
    told, now, waits = Told(RestartRules(**{**vars_of(BROKER_RULES), "backoff_jitter": 0.0})), 0.0, []
    told.running(now)
    for _ in range(9):
        told(now, FAULT)
        waits.append(told.until(now))
        now += waits[-1]
        told(now, Spawned(), Loaded())
    assert waits == pytest.approx([0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])
    assert told(now, WRONG).state == BACKOFF


def test_a_broker_that_never_served_and_is_configured_wrongly_stops():
    assert Told(BROKER_RULES)(0.0, Wanted(), Spawned(), WRONG).state == STOPPED


def vars_of(rules: RestartRules) -> dict[str, object]:
    return {name: getattr(rules, name) for name in RestartRules.__slots__}


def test_what_the_table_does_not_list_raises_with_the_history():
    told = Told().running(3.0)
    with pytest.raises(
        IllegalTransition, match=r"worker-0 is running and got Loaded\(\); before that: .*starting Loaded running"
    ):
        told(4.0, Loaded())
    with pytest.raises(IllegalTransition, match="has a process already"):
        Told()(0.0, Wanted(), Spawned(), Spawned())


def test_every_state_is_in_the_table_and_can_be_stopped():
    assert {state for state, _ in TRANSITIONS} == set(STATES)
    assert {state for targets in TRANSITIONS.values() for state in targets} == set(STATES)
    assert all((state, Stop) in TRANSITIONS and (state, Tick) in TRANSITIONS for state in STATES)


def test_no_more_load_at_a_time_than_allowed_and_the_longest_waiting_first():
    slots = [Told() for _ in range(4)]
    for at, told in enumerate(reversed(slots)):
        told(at, Wanted())
    policies = [told.slot for told in slots]
    assert next_spawns(policies, 2) == [policies[3], policies[2]]
    for policy in (policies[3], policies[2]):
        policy.receive(Spawned(), 4.0)
    assert next_spawns(policies, 2) == []
    policies[3].receive(Loaded(), 5.0)
    assert next_spawns(policies, 2) == [policies[1]]
    policies[2].receive(FAULT, 6.0)
    assert next_spawns(policies, 2) == [policies[1], policies[0]]
    assert next_deadline(policies) == 6.5
