"""How a pool goes down, killed or asked, and what an operator asks of it, in real processes with stub children."""

import os
import signal
import time

import pytest

pytestmark = pytest.mark.process


@pytest.mark.parametrize("behaviour", ["serve", "hold_gil", "load_for_ever", "deaf"])
def test_nobody_outlives_a_killed_parent(pool, wait_for, behaviour):
    pool.start((behaviour, behaviour))
    if behaviour == "load_for_ever":
        wait_for(lambda: pool.slots() and all(slot["pid"] for slot in pool.slots()))
    else:
        pool.ready()
    assert len(pool.processes()) == 4
    pool.signal(signal.SIGKILL)
    pool.wait()
    wait_for(lambda: not pool.processes(), 3.0, "every process to be gone")


def test_nobody_outlives_a_parent_that_is_killed_while_it_starts(pool, wait_for):
    for _ in range(5):
        pool.start(("serve",) * 3, loading_max=3)
        wait_for(lambda: len(pool.processes()) >= 3)
        pool.signal(signal.SIGKILL)
        pool.wait()
        wait_for(lambda: not pool.processes(), 3.0, "every process to be gone")


def test_a_stopped_child_does_not_outlive_the_parent_either(pool, wait_for):
    pool.start(("serve",)).ready()
    os.kill(pool.slot()["pid"], signal.SIGSTOP)
    pool.signal(signal.SIGKILL)
    pool.wait()
    wait_for(lambda: not pool.processes(), 3.0, "every process to be gone")


def test_a_second_signal_means_now(pool, wait_for):
    pool.start(("deaf",), broker="never_drained", drain_timeout_s=60.0).ready()
    pool.signal(signal.SIGTERM)
    wait_for(lambda: pool.state()["pool"]["state"] == "draining")
    time.sleep(0.4)  # what comes within 0.3 s is the same wish
    asked_at = time.monotonic()
    pool.signal(signal.SIGINT)
    assert pool.wait() == 130
    assert time.monotonic() - asked_at < 2.0
    assert pool.processes() == []


def test_two_signals_at_once_are_one_wish(pool):
    pool.start(("serve",)).ready()
    pool.signal(signal.SIGTERM)
    pool.signal(signal.SIGTERM)
    assert pool.wait() == 0


def test_a_drain_is_bounded(pool):
    pool.start(("serve",), broker="never_drained", drain_timeout_s=0.5).ready()
    pool.signal(signal.SIGTERM)
    assert pool.wait(5.0) == 0
    assert pool.processes() == []


def test_a_dead_broker_is_not_waited_for(pool, wait_for):
    pool.start(("serve",), broker="never_drained", drain_timeout_s=60.0).ready()
    pool.signal(signal.SIGTERM)
    wait_for(lambda: pool.state()["pool"]["state"] == "draining")
    os.kill(pool.state()["broker"]["pid"], signal.SIGKILL)
    assert pool.wait(5.0) == 0


def test_a_signal_while_everybody_loads_ends_it(pool, wait_for):
    pool.start(("load_for_ever",) * 2)
    wait_for(lambda: pool.slots() and all(slot["pid"] for slot in pool.slots()))
    pool.signal(signal.SIGTERM)
    assert pool.wait() == 0
    assert pool.processes() == []


def test_a_second_pool_on_the_same_run_directory_is_refused(pool):
    pool.start(("serve",)).ready()
    first, pids = pool.parent, pool.state()["slots"]
    pool.start(("serve",))
    assert pool.wait() == 2
    assert f"held by process {first.pid}" in pool.err_file.read_text()
    assert first.poll() is None
    pool.parent = first
    assert pool.state()["slots"] == pids


# ---- an operator's commands ----------------------------------------------------------------------------------------


def nudge(pool):
    """News, so that the stub broker hears a record and sends its commands."""
    os.kill(pool.slot(0)["pid"], signal.SIGKILL)


def test_stop_through_the_broker(pool):
    pool.start(("serve",)).ready()
    pool.command(("stop", ""))
    nudge(pool)
    assert pool.wait() == 0
    assert len(pool.heard("Drain")) == 1


def test_scale_and_restart_through_the_broker(pool, wait_for):
    pool.start(("serve", "serve")).ready()
    before = pool.slot(1)
    pool.command(("nonsense", "x"), ("restart", "7"), ("scale", "-1"), ("scale", "3"), ("restart", "1"))
    nudge(pool)
    pool.until_slot(1, state="running", restarts=1)
    assert pool.slot(1)["last_exit"]["reason"] == "killed by SIGTERM"
    assert pool.slot(1)["pid"] != before["pid"]
    wait_for(lambda: len(pool.slots()) == 3)
    pool.until_slot(2, state="running")
    assert "command 'nonsense' 'x' is not possible" in pool.journal()
    pool.command(("scale", "1"))
    nudge(pool)
    pool.until_slot(2, state="stopped", pid=None)
    pool.until_slot(1, state="stopped", pid=None)
    pool.until_slot(0, state="running")
