"""Processes that live and get nowhere, real ones: what the parent sees, does and keeps of it."""

import json
import os
import signal
import time

import pytest

pytestmark = pytest.mark.process


def test_a_worker_that_hangs_in_a_batch_is_ended_with_its_stack(pool, wait_for):
    pool.start(("hang", "beat"), stuck_min_s=1.5, restarts_max=0)
    end = pool.until_slot(0, state="quarantined")["last_exit"]
    assert end["reason"].startswith("hung in a batch for ")
    assert end["signal"] == "SIGABRT"
    assert "in hang" in end["stack"]
    assert end["running"] == [(b"q" * 16).hex()]
    (gone,) = wait_for(lambda: pool.heard("Gone"))
    assert (gone["blame"], gone["running"]) == (True, end["running"])
    assert pool.slot(1)["exits"] == [], "one whose batches end is left alone"


def test_a_worker_that_holds_the_interpreter_is_ended_with_its_stack(pool):
    pool.start(("hold_gil", "beat"), stuck_min_s=1.5, restarts_max=0)
    end = pool.until_slot(0, state="quarantined")["last_exit"]
    assert end["reason"].startswith("hung: its loop has not turned for ")
    assert "in hold_gil" in end["stack"]


def test_hashing_does_not_count_as_loading_for_as_long_as_it_goes_on(pool, wait_for):
    pool.start(("hash_then_serve 6", "hash_for_ever"), load_timeout_s=2.0, restarts_max=0)
    wait_for(lambda: pool.slot(0)["detail"] == "hashes the files of its index, once on this host")
    end = pool.until_slot(1, state="quarantined")["last_exit"]
    assert (end["reason"], end["running"]) == ("did not get ready in time", [])
    assert pool.until_slot(0, state="running")["exits"] == []


def test_one_that_survives_sigabrt_is_killed(pool):
    pool.start(("ignore_abort", "beat"), stuck_min_s=1.0, restarts_max=0)
    end = pool.until_slot(0, seconds=20, state="quarantined")["last_exit"]
    assert end["reason"].startswith("hung")
    assert end["signal"] == "SIGKILL"


def test_a_stopped_worker_is_killed_at_once_when_its_time_is_up(pool, wait_for):
    """By somebody outside: nothing that it ran is suspect, and it does not count towards quarantine."""
    pool.start(("run_something", "beat"), stopped_max_s=1.5, restarts_max=0).ready()
    stopped_at = time.monotonic()
    os.kill(pool.slot()["pid"], signal.SIGSTOP)
    wait_for(lambda: pool.slot()["detail"] == "stopped by a signal")
    (gone,) = wait_for(lambda: pool.heard("Gone"))
    assert 1.5 <= gone["heard_at"] - stopped_at < 4.0
    assert gone["blame"] is False
    end = pool.until_slot(0, state="running", restarts=1)["last_exit"]
    assert end["reason"].startswith("stopped for ")
    assert end["signal"] == "SIGKILL"


def test_a_worker_stopped_for_a_moment_lives(pool, wait_for):
    pool.start(("beat",), stopped_max_s=30.0).ready()
    pid = pool.slot()["pid"]
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: pool.slot()["detail"] == "stopped by a signal")
    os.kill(pid, signal.SIGCONT)
    wait_for(lambda: pool.slot()["detail"] == "")
    assert (pool.slot()["pid"], pool.slot()["exits"]) == (pid, [])


def test_a_parent_that_was_stopped_ends_nobody(pool, wait_for):
    pool.start(("beat", "beat"), stuck_min_s=1.5, stopped_max_s=1.5).ready()
    before = pool.state()
    os.kill(pool.parent.pid, signal.SIGSTOP)
    time.sleep(4.0)  # the fault itself
    os.kill(pool.parent.pid, signal.SIGCONT)
    os.kill(before["slots"][0]["pid"], signal.SIGKILL)
    slot = pool.until_slot(0, state="running", restarts=1)
    assert [end["reason"] for end in slot["exits"]] == ["killed by SIGKILL"]
    assert pool.slot(1) == before["slots"][1]
    assert pool.state()["broker"] == before["broker"]


def test_a_broker_that_hangs_is_replaced_with_its_stack(pool, wait_for):
    pool.start(("beat",), broker="hangs", stuck_min_s=1.5)
    wait_for(lambda: (pool.state()["broker"] or {}).get("restarts") == 1 and pool.state()["broker"]["state"] == "running")
    end = pool.state()["broker"]["last_exit"]
    assert end["reason"].startswith("hung: its loop has not turned for ")
    assert "stub_broker" in end["stack"]
    assert pool.slot()["exits"] == []


def test_a_stopped_broker_is_left_alone_and_told_of(pool, wait_for):
    pool.start(("beat",), stuck_min_s=1.0, stopped_max_s=1.0).ready()
    broker = pool.state()["broker"]["pid"]
    os.kill(broker, signal.SIGSTOP)
    wait_for(lambda: pool.state()["broker"]["detail"] == "stopped by a signal")
    time.sleep(3.0)  # longer than anything else may stand still
    assert pool.state()["broker"]["pid"] == broker
    os.kill(broker, signal.SIGCONT)
    wait_for(lambda: pool.state()["broker"]["detail"] == "")
    assert pool.state()["broker"]["exits"] == []


def test_a_successor_is_told_how_the_one_before_it_ended(pool, wait_for):
    pool.start((f"tell_previous {pool.root}/marker",), broker=None)
    slot = pool.until_slot(0, state="running", restarts=1)
    log = (pool.run / "logs" / "worker-0.log").read_text()
    end = slot["last_exit"]
    told = f"told Gone(incarnation='{end['incarnation']}', reason='killed by SIGABRT', blame=True, running=({b'q' * 16!r},))"
    assert told in log
    assert log.count("told all") == 2


def tell(path, used, **by_pid):
    unfinished = path.with_name("unfinished")
    unfinished.write_text(json.dumps({"used": used, "by_pid": by_pid}))
    unfinished.rename(path)


def test_a_device_gets_no_new_process_before_the_memory_of_the_dead_one_is_back(pool, wait_for):
    readings = pool.root / "readings"
    pool.start(("beat",), broker=None, device="cuda:0", readings=str(readings)).ready()
    pid = pool.slot()["pid"]
    tell(readings, 700, **{str(pid): 600})
    time.sleep(1.2)  # two looks, so that the parent has seen it
    os.kill(pid, signal.SIGKILL)
    waiting = pool.until_slot(0, pid=None, detail=f"waits for the memory of process {pid} on cuda:0")
    assert waiting["last_exit"]["device_memory"] == {"used": 700, "total": 1000, "process": 600}
    time.sleep(1.0)  # longer than any backoff here
    assert pool.slot()["state"] == "starting"
    assert pool.slot()["pid"] is None
    tell(readings, 100)
    assert pool.until_slot(0, state="running", restarts=1)["detail"] == ""


def test_a_device_that_breaks_its_processes_is_held_as_a_whole(pool, wait_for):
    pool.start(("fail 70:CUDA error", "fail 70:CUDA error", "beat"), device="cuda:0", restarts_max=2, quarantine_probe_s=2.0)
    wait_for(lambda: [slot["state"] for slot in pool.slots()[:2]] == ["quarantined", "quarantined"])
    assert 3 <= sum(len(slot["exits"]) for slot in pool.slots()[:2]) <= 4
    assert pool.slot(0)["exits"][0]["reason"] == "exit code 70 (CUDA error)"
    wait_for(lambda: sum(len(slot["exits"]) for slot in pool.slots()[:2]) >= 5, 20, "a probe")
    assert pool.slot(2)["state"] == "running"
