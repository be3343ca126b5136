"""The parent as a whole, in real processes with stub children: what happens when something ends."""

import os
import signal
import time

import pytest
from ragpool.supervisor.logs import LOG_MAX_BYTES

pytestmark = pytest.mark.process


def test_it_comes_up_says_so_and_goes_down_in_order(pool):
    pool.start(("serve", "serve"), probe=("0", "an answer")).ready()
    assert pool.out_file.read_text() == "serving tcp://127.0.0.1:5555\nready tcp://127.0.0.1:5555\n"
    state = pool.state()
    assert state["pool"]["pid"] == pool.parent.pid
    assert (state["pool"]["state"], state["pool"]["frontend"]) == ("serving", "tcp://127.0.0.1:5555")
    assert len({state["broker"]["pid"], *(slot["pid"] for slot in state["slots"]), pool.parent.pid}) == 4
    assert all(slot["device"] == "cpu" and len(slot["incarnation"]) == 16 and not slot["exits"] for slot in state["slots"])
    pool.signal(signal.SIGTERM)
    assert pool.wait() == 0
    assert pool.processes() == []
    assert pool.err_file.read_text() == ""
    state = pool.state()
    assert state["pool"]["state"] == "stopped"
    assert [slot["state"] for slot in state["slots"]] == ["stopped", "stopped"]
    assert len(pool.heard("Drain")) == 1
    assert state["slots"][0]["last_exit"]["reason"] == "killed by SIGTERM"


def test_a_killed_worker_is_told_at_once_and_comes_back(pool, wait_for):
    pool.start(("run_something", "serve")).ready()
    slot = pool.slot(0)
    killed_at = time.monotonic()
    os.kill(slot["pid"], signal.SIGKILL)
    (gone,) = wait_for(lambda: pool.heard("Gone"))
    assert gone["heard_at"] - killed_at < 0.2
    assert gone["incarnation"] == slot["incarnation"]
    assert gone["running"] == [(b"q" * 16).hex()]
    assert (gone["reason"], gone["blame"]) == ("killed by SIGKILL", False)
    again = pool.until_slot(0, state="running", restarts=1)
    assert again["pid"] != slot["pid"]
    assert again["incarnation"] != slot["incarnation"]
    end = again["last_exit"]
    assert (end["reason"], end["signal"], end["code"], end["pid"]) == ("killed by SIGKILL", "SIGKILL", None, slot["pid"])
    assert abs(end["at"] - time.time()) < 60
    assert end["running"] == [(b"q" * 16).hex()]
    assert again["exits"] == [end]
    told = {"slot": 0, "device": "cpu", "state": "running", "incarnation": again["incarnation"], "wait_s": 0.0}
    wait_for(lambda: pool.heard("Slots")[-1]["slots"][0] == told)
    states = [record["slots"][0]["state"] for record in pool.heard("Slots")]
    assert states[-3:] == ["backoff", "starting", "running"]
    assert pool.slot(1)["restarts"] == 0


def test_a_crash_is_blamed_and_explained(pool, wait_for):
    pool.start(("crash", "serve"), restarts_max=0)
    slot = pool.until_slot(0, state="quarantined")
    (gone,) = wait_for(lambda: pool.heard("Gone"))
    assert (gone["reason"], gone["blame"]) == ("killed by SIGSEGV", True)
    assert gone["running"] == [(b"q" * 16).hex(), (b"r" * 16).hex()]
    assert "in crash" in slot["last_exit"]["stack"]
    assert "Segmentation fault" in slot["last_exit"]["log_tail"]
    wait_for(lambda: pool.heard("Slots")[-1]["slots"][0]["wait_s"] > 250)
    assert "worker-0: killed by SIGSEGV" in pool.err_file.read_text()


def test_a_slot_that_keeps_failing_is_quarantined_and_probed(pool):
    pool.start(("fail 1:boom", "serve"), restarts_max=2, quarantine_probe_s=1.0, backoff_max_s=0.1)
    assert len(pool.until_slot(0, state="quarantined")["exits"]) == 3
    slot = pool.until_slot(0, restarts=3)
    slot = pool.until_slot(0, state="quarantined", restarts=3)
    assert slot["last_exit"]["log_tail"] == "first words\nboom\n"
    assert pool.slot(1)["state"] == "running"


def test_loading_takes_turns(pool, wait_for):
    pool.start(("load_for_ever", "serve", "load_for_ever", "serve", "serve"), loading_max=2)
    pool.until_slot(1, state="running")
    wait_for(lambda: sum(slot["pid"] is not None and slot["state"] == "starting" for slot in pool.slots()) == 2)
    assert [slot["state"] for slot in pool.slots()] == ["starting", "running", "starting", "starting", "starting"]
    assert [slot["pid"] is None for slot in pool.slots()] == [False, False, False, True, True]


def test_loading_has_a_limit(pool):
    pool.start(("load_for_ever", "serve"), load_timeout_s=1.0, restarts_max=0)
    end = pool.until_slot(0, state="quarantined")["last_exit"]
    assert (end["reason"], end["signal"]) == ("did not get ready in time", "SIGABRT")
    assert "in load_for_ever" in end["stack"]
    assert pool.slot(1)["state"] == "running"


def test_a_killed_broker_is_back_well_under_a_second_and_nobody_else_moves(pool, wait_for):
    pool.start(("serve", "serve")).ready()
    before = pool.state()
    killed_at = time.monotonic()
    os.kill(before["broker"]["pid"], signal.SIGKILL)
    wait_for(lambda: any(record["pid"] != before["broker"]["pid"] for record in pool.heard("Slots")))
    first = next(record for record in pool.heard("Slots") if record["pid"] != before["broker"]["pid"])
    assert first["heard_at"] - killed_at < 1.0
    assert [slot["incarnation"] for slot in first["slots"]] == [slot["incarnation"] for slot in before["slots"]]
    wait_for(lambda: pool.state()["broker"]["restarts"] == 1)
    assert [slot["pid"] for slot in pool.slots()] == [slot["pid"] for slot in before["slots"]]
    assert pool.state()["broker"]["last_exit"]["reason"] == "killed by SIGKILL"
    assert pool.out_file.read_text().count("serving") == 1, "said once"


@pytest.mark.parametrize(
    ("behaviour", "reason"), [("garbage", "broke the channel: not MessagePack"), ("closes", "closed the channel")]
)
def test_a_broker_that_breaks_the_channel_is_replaced_alone(pool, wait_for, behaviour, reason):
    pool.start(("serve",), broker=behaviour)
    wait_for(lambda: pool.state()["broker"].get("restarts") == 1 and pool.state()["broker"]["state"] == "running")
    assert pool.state()["broker"]["last_exit"]["reason"].startswith(reason)
    assert pool.until_slot(0, state="running")["restarts"] == 0
    assert pool.parent.poll() is None


def test_a_deaf_broker_blocks_nobody(pool, wait_for):
    """It never reads; workers that crash all the time fill its channel."""
    pool.start(("fail 1:boom",) * 4, broker="deaf", restarts_max=100_000, backoff_min_s=0.001, backoff_max_s=0.001)
    wait_for(lambda: pool.state()["slots"] and min(slot["restarts"] for slot in pool.slots()) >= 5, 30.0)
    pool.signal(signal.SIGTERM)
    time.sleep(0.4)
    pool.signal(signal.SIGTERM)
    assert pool.wait(5.0) == 143


@pytest.mark.parametrize(
    ("workers", "broker", "probe", "sentence"),
    [
        (("fail 78:no such index",), "serve", None, "no such index"),
        (("serve",), "misconfigured", None, "port 5555 is in use"),
        (("serve",), "serve", ("78", "no such address"), "no such address"),
    ],
)
def test_a_wrong_configuration_ends_it_with_one_sentence(pool, workers, broker, probe, sentence):
    pool.start(workers, broker, probe)
    assert pool.wait() == 2
    assert pool.err_file.read_text() == sentence + "\n"
    assert pool.processes() == []
    assert "ready" not in pool.out_file.read_text()


def test_a_broker_that_never_serves_is_given_up(pool):
    pool.start(broker="broken")
    assert pool.wait() == 1
    assert pool.err_file.read_text().endswith("the broker failed at the start (exit code 1): Error: no luck\n")
    assert pool.processes() == []


def test_workers_that_never_load_are_given_up(pool):
    pool.start(("fail 1:boom", "fail 1:boom"), restarts_max=1, probe=("1", "late"))
    assert pool.wait() == 1
    assert "failed at the start (exit code 1): boom" in pool.err_file.read_text()
    assert pool.processes() == []


def test_a_wrong_configuration_after_ready_stops_only_its_slot(pool):
    pool.start(("serve", f"serve_once {pool.root}/marker")).ready()
    os.kill(pool.slot(1)["pid"], signal.SIGKILL)
    slot = pool.until_slot(1, state="stopped")
    assert slot["last_exit"]["reason"] == "configuration: no such index"
    assert slot["last_exit"]["code"] == 78
    assert pool.slot(0)["state"] == "running"
    assert pool.parent.poll() is None


def test_a_probe_is_asked_again_until_it_is_answered(pool, wait_for):
    pool.start(probe=("1", "not yet"))
    wait_for(lambda: pool.journal().count("not yet") == 1 and pool.slot()["state"] == "running")
    assert pool.wait() == 1
    assert pool.err_file.read_text() == "not yet\nthe first query failed at the start (exit code 1): not yet\n"


def test_without_a_broker_it_keeps_workers_alive(pool):
    pool.start(("serve", "serve"), broker=None).ready()
    os.kill(pool.slot(0)["pid"], signal.SIGKILL)
    pool.until_slot(0, state="running", restarts=1)
    assert pool.state()["broker"] is None
    pool.signal(signal.SIGINT)
    assert pool.wait() == 0
    assert pool.processes() == []


def test_without_a_run_directory_it_says_everything_on_stderr(pool, wait_for):
    pool.start(("fail 1:boom",), broker=None, paths=False, restarts_max=0)
    assert pool.wait() == 1
    said = pool.err_file.read_text()
    assert "first words\nboom\n" in said
    assert "worker-0: exit code 1" in said
    assert not (pool.run / "state.json").exists()


def test_a_full_disk_costs_the_state_file_and_nothing_else(pool, wait_for):
    pool.start(("serve",)).ready()
    (pool.run / "state.json.new").symlink_to("/dev/full")
    os.kill(pool.slot()["pid"], signal.SIGKILL)
    wait_for(lambda: pool.heard("Gone") and pool.heard("Slots")[-1]["slots"][0]["state"] == "running")
    assert pool.err_file.read_text().count("the state file cannot be written") == 1
    assert "the state file cannot be written: [Errno 28]" in pool.heard("Slots")[-1]["trouble"]
    assert pool.slot()["restarts"] == 0, "what was there stays"
    (pool.run / "state.json.new").unlink()
    pool.until_slot(0, state="running", restarts=1)
    wait_for(lambda: pool.heard("Slots")[-1]["trouble"] == "")
    assert pool.err_file.read_text().count("the state file can be written again") == 1


def test_a_log_stays_bounded_while_its_process_writes(pool, wait_for):
    """All of the last words are still there when it ends."""
    pool.start(("talk", "serve")).ready()
    log, older = pool.run / "logs" / "worker-0.log", pool.run / "logs" / "worker-0.log.1"
    wait_for(older.exists)
    wait_for(lambda: log.stat().st_size < 200_000 and older.stat().st_size == LOG_MAX_BYTES)
    os.kill(pool.slot()["pid"], signal.SIGKILL)
    end = pool.until_slot(0, state="running", restarts=1)["last_exit"]
    assert "line number" in end["log_tail"]


def open_command(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()
