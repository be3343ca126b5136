"""The order of going down, and when a pool that does not come up is given up. Literal times."""

import pytest
from ragpool.supervisor.exits import classify
from ragpool.supervisor.policy import BACKOFF, QUARANTINED
from ragpool.supervisor.shutdown import DONE, DRAINING, KILLING, SERVING, STOPPING_BROKER, STOPPING_WORKERS, Shutdown
from ragpool.supervisor.startup import Startup, Verdict

ALL = {"workers": 2, "broker": True}


def test_in_order_when_everybody_does_as_told():
    down = Shutdown(30.0)
    assert down.advance(0.0, **ALL) == []
    down.drain(0.0, through_broker=True)
    assert down.advance(0.0, **ALL) == [DRAINING]
    assert down.advance(29.9, **ALL) == []
    down.drained = True
    assert down.advance(29.9, **ALL) == [STOPPING_WORKERS]
    assert down.advance(30.0, workers=0, broker=True) == [STOPPING_BROKER]
    assert down.advance(30.1, workers=0, broker=False) == [KILLING, DONE]
    assert down.exit_code == 0
    assert down.deadline is None


def test_every_stage_is_bounded():
    down, entered, now = Shutdown(30.0), [], 0.0
    down.drain(now, through_broker=True)
    for _ in range(5):
        entered += down.advance(now, **ALL)
        now = down.deadline or now
    assert entered == [DRAINING, STOPPING_WORKERS, STOPPING_BROKER, KILLING, DONE]
    assert now == 30.0 + 5.0 + 3.0 + 5.0
    assert down.exit_code == 0


def test_a_dead_broker_is_not_waited_for():
    down = Shutdown(30.0)
    down.drain(0.0, through_broker=True)
    assert down.advance(0.0, workers=2, broker=False) == [DRAINING, STOPPING_WORKERS]


def test_without_a_broker_the_workers_get_the_time_of_the_drain():
    down = Shutdown(30.0)
    down.drain(0.0, through_broker=False)
    assert down.advance(0.0, workers=2, broker=False) == [STOPPING_WORKERS]
    assert down.advance(29.9, workers=2, broker=False) == []
    assert down.advance(30.0, workers=1, broker=False) == [STOPPING_BROKER, KILLING]


@pytest.mark.parametrize("asked_before", [True, False])
def test_now_means_now(asked_before):
    down = Shutdown(30.0)
    if asked_before:
        down.drain(0.0, through_broker=True)
    down.kill(1.0, 143)
    down.kill(1.0, 130)
    assert down.advance(1.0, **ALL)[-1] == KILLING
    assert down.advance(1.1, workers=0, broker=False) == [DONE]
    assert down.exit_code == 143


def test_asked_twice_to_drain_is_asked_once():
    down = Shutdown(30.0)
    assert down.stage == SERVING
    down.drain(0.0, through_broker=True)
    down.drain(5.0, through_broker=False)
    assert down.advance(5.0, **ALL) == [DRAINING]
    assert down.deadline == 30.0


FAULT, WRONG, KILLED = classify(1), classify(78, sentence="no such index"), classify(-9)


def test_a_wrong_configuration_gives_up_before_ready_only():
    startup = Startup()
    assert startup.worker_ended("worker-0", WRONG, "no such index", [BACKOFF]) == Verdict(2, "no such index")
    assert startup.broker_ended(WRONG, "port in use") == Verdict(2, "port in use")
    assert startup.probe_ended(WRONG, "bad address", False) == Verdict(2, "bad address")
    startup.ready = True
    assert startup.worker_ended("worker-0", WRONG, "no such index", []) is None
    assert startup.broker_ended(WRONG, "port in use") is None


def test_a_broker_that_never_serves_is_given_up():
    startup = Startup()
    assert startup.broker_ended(FAULT, "boom") is None
    assert startup.broker_ended(KILLED, "") is None
    assert startup.broker_ended(FAULT, "boom") == Verdict(1, "the broker failed at the start (exit code 1): boom")


def test_a_broker_that_served_is_not():
    startup = Startup()
    startup.served = True
    assert [startup.broker_ended(FAULT, "boom") for _ in range(9)] == [None] * 9


def test_workers_are_given_up_when_the_last_slot_is():
    startup = Startup()
    assert startup.worker_ended("worker-1", FAULT, "boom", [QUARANTINED, BACKOFF]) is None
    verdict = startup.worker_ended("worker-0", FAULT, "boom", [QUARANTINED, QUARANTINED])
    assert verdict == Verdict(1, "worker-0 failed at the start (exit code 1): boom")


def test_a_probe_fails_only_against_workers_that_run():
    startup = Startup()
    assert all(startup.probe_ended(FAULT, "late", False) is None for _ in range(20))
    assert [startup.probe_ended(FAULT, "late", True) is None for _ in range(5)] == [True] * 4 + [False]
