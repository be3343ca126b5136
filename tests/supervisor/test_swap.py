"""A reload as the parent performs it, in real processes with stub children: what serves, what respawns, what is told."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.process


def index(root: Path, words: str, name: str = "index") -> str:
    """What stands for an index: the behaviour of the worker that serves it."""
    path = root / name
    path.write_text(words)
    return str(path)


def rollout(pool: Any, wait_for: Any, **wanted: object) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        found = pool.state().get("rollout") or {}
        return found if all(found.get(name) == value for name, value in wanted.items()) else None

    found: dict[str, Any] = wait_for(there, 15, f"a rollout with {wanted}: {pool.state().get('rollout')} {pool.journal()}")
    return found


def versions(pool: Any) -> list[str]:
    return [slot["index_version"] for slot in pool.slots()]


def test_a_reload_replaces_all_and_respawns_take_the_new_version(pool, wait_for, short_dir):
    pool.start(("serve_version 1", "serve_version 1")).ready()
    pool.command(("reload", index(short_dir, "serve_version 2")))
    done = rollout(pool, wait_for, state="done")
    assert (done["kind"], done["before"], done["after"], done["replaced"]) == ("reload", "1", "2", 2)
    assert done["told"] == "1 -> 2, 2 workers replaced"
    assert versions(pool) == ["2", "2"]
    assert all(slot["beside"] is None and slot["state"] == "running" for slot in pool.slots())
    pid = pool.slot(1)["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: pool.slot(1)["pid"] not in (pid, None) and pool.slot(1)["state"] == "running")
    assert versions(pool) == ["2", "2"]
    assert len(pool.processes()) == 4, "nothing of the old version is left"


def test_a_version_that_was_gone_when_the_pool_came_up_is_not_asked_for_again(pool, wait_for):
    """The parent wants version 1; its workers find version 2."""
    pool.start(("serve_version 2", "serve_version 2")).ready()
    wait_for(lambda: "version 1 of " in pool.journal(), what="a word of it")
    assert "was gone: version 2, which is served, is wanted from now on" in pool.journal()
    pool.command(("restart", ""))
    done = rollout(pool, wait_for, state="done", kind="restart")
    assert (done["before"], done["after"]) == ("2", "2")
    assert pool.journal().count("is wanted from now on") == 1


def test_old_and_new_stand_beside_each_other_and_only_then_the_old_one_leaves(pool, wait_for, short_dir):
    pool.start(("serve_version 1",)).ready()
    pool.command(("reload", index(short_dir, "load_for_ever")))
    beside = wait_for(lambda: pool.slot(0)["beside"], what="a process beside")
    old = pool.until_slot(0, state="running")
    assert beside["state"] == "starting"
    assert old["index_version"] == "1"
    heard = wait_for(lambda: [s for s in pool.heard("Slots") if len({b["incarnation"] for b in s["slots"]} - {""}) == 2])
    assert [brief["slot"] for brief in heard[-1]["slots"]] == [0, 0]
    assert {path.name for path in (pool.run / "logs").glob("worker*")} == {"worker-0.log", "worker-0b.log"}
    pool.signal(signal.SIGTERM)
    assert pool.wait() == 0
    assert pool.processes() == []
    assert rollout(pool, wait_for, state="failed")["told"] == "the pool goes down; version 1 serves on"


@pytest.mark.parametrize(
    ("words", "sentence", "tries"),
    [
        ("fail 78:no such index", "no such index; version 1 serves on", 1),
        ("fail 3:no luck", "the new process ended: exit code 3 (no luck); version 1 serves on", 2),
    ],
)
def test_what_cannot_be_loaded_changes_nothing(pool, wait_for, short_dir, words, sentence, tries):
    pool.start(("serve_version 1", "serve_version 1")).ready()
    before = [slot["pid"] for slot in pool.slots()]
    pool.command(("reload", index(short_dir, words)))
    failed = rollout(pool, wait_for, state="failed")
    assert failed["told"] == sentence
    pool.until_slot(0, state="running", index_version="1")
    assert [slot["pid"] for slot in pool.slots()] == before, "nobody was touched"
    ends = [end for end in pool.slot(0)["exits"] if end["code"] not in (None, 0)]
    assert len(ends) == tries, "the ends of new processes are kept with those of the slot"
    pid = pool.slot(1)["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: pool.slot(1)["pid"] not in (pid, None) and pool.slot(1)["state"] == "running")
    assert versions(pool) == ["1", "1"]
    index(short_dir, "serve_version 2")
    pool.command(("reload", str(short_dir / "index")))
    rollout(pool, wait_for, state="done", after="2")


def test_a_reload_that_stopped_halfway_is_made_whole_by_the_next(pool, wait_for, short_dir):
    marker = short_dir / "marker"
    pool.start(("serve_version 1", "serve_version 1")).ready()
    pool.command(("reload", index(short_dir, f"serve_first {marker}:2:78")))
    rest = "the rest is as it was and follows when it is started again, or with the next reload"
    rollout(pool, wait_for, state="failed", told=f"no such device; 1 worker replaced, {rest}")
    assert versions(pool) == ["2", "1"]
    kept = pool.slot(0)["pid"]
    (short_dir / "marker.mended").touch()
    pool.command(("reload", ""))
    rollout(pool, wait_for, state="done", told="1 worker replaced, version 2")
    assert versions(pool) == ["2", "2"]
    assert pool.slot(0)["pid"] == kept
    pool.command(("reload", ""))
    assert "nothing to replace" in rollout(pool, wait_for, state="done", replaced=0)["told"]
    assert len(pool.processes()) == 4, "nothing that was tried is left"


@pytest.mark.parametrize(("code", "why"), [(1, "exit code 1"), (75, "asked to be started again")])
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_reload_whose_later_process_ends_again_and_again_ends_and_the_way_back_is_open(
    pool, wait_for, short_dir, device, code, why
):
    """No policy would give it up. On the device without room for two the slot that was drained comes back, too."""
    pool.start(("serve_version 1", "serve_version 1"), device=device, restarts_max=100_000).ready()
    pool.command(("reload", index(short_dir, f"serve_first {short_dir / 'marker'}:2:{code}")))
    failed = rollout(pool, wait_for, state="failed")
    assert failed["told"].startswith(f"the new process ended: {why} (no such device); 1 worker replaced, the rest is as it was")
    if device == "cpu":
        assert [end["code"] for end in pool.slot(1)["exits"] if end["code"]] == [code, code]
        assert versions(pool) == ["2", "1"]
        pool.command(("reload", index(short_dir, "serve_version 1", "old")))
        rollout(pool, wait_for, state="done", after="1")
    else:
        (short_dir / "marker.mended").touch()
    wait_for(lambda: len(set(versions(pool))) == 1 and {slot["state"] for slot in pool.slots()} == {"running"})


def test_what_finds_no_room_beside_the_old_one_is_tried_in_its_place(pool, wait_for, short_dir):
    room = short_dir / "room"
    pool.start((f"serve_alone {room}:1",)).ready()
    pool.command(("reload", index(short_dir, f"serve_alone {room}:2")))
    assert rollout(pool, wait_for, state="done")["told"] == "1 -> 2, 1 worker replaced"
    assert versions(pool) == ["2"]
    assert "there is no room for a second process, so the old one is drained first" in pool.err_file.read_text()
    assert [end["code"] for end in pool.slot(0)["exits"] if end["code"]] == [1], "it was tried beside first"


def test_a_process_that_cannot_be_started_is_a_try_too(pool, wait_for, short_dir):
    """The system takes no argument of that length."""
    pool.start(("serve_version 1",)).ready()
    pool.command(("reload", "no \0 path"))
    wait_for(lambda: "is not possible" in pool.journal())
    pool.command(("reload", index(short_dir, "serve_version " + "2" * 200_000)))
    told = rollout(pool, wait_for, state="failed")["told"]
    assert told.startswith("the new process could not be started: ")
    assert told.endswith("; version 1 serves on")


def test_a_slot_that_is_wanted_again_while_it_drains_comes_back(pool, wait_for):
    pool.start(("deaf",), drain_timeout_s=0.5).ready()
    pid = pool.slot(0)["pid"]
    pool.command(("drain", "0"), ("restart", "0"))
    wait_for(lambda: pool.slot(0)["pid"] not in (pid, None) and pool.slot(0)["state"] == "running", what="another process")


def test_a_link_is_followed_when_a_reload_is_asked_for_and_not_by_respawns(pool, wait_for, short_dir):
    link = short_dir / "link"
    link.symlink_to(index(short_dir, "serve_version 2", "two"))
    pool.start(("serve_version 1",)).ready()
    pool.command(("reload", str(link)))
    rollout(pool, wait_for, state="done", after="2")
    link.unlink()
    link.symlink_to(index(short_dir, "serve_version 3", "three"))
    pid = pool.slot(0)["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: pool.slot(0)["pid"] not in (pid, None) and pool.slot(0)["state"] == "running")
    assert versions(pool) == ["2"]
    pool.command(("reload", ""))
    assert rollout(pool, wait_for, state="done", after="3")["index"] == str((short_dir / "three").resolve())


def test_a_restart_of_all_keeps_the_version_and_replaces_every_process(pool, wait_for):
    pool.start(("serve_version 1", "serve_version 1")).ready()
    pool.command(("restart", ""))
    done = rollout(pool, wait_for, state="done", kind="restart")
    assert done["told"] == "2 workers replaced, version 1"


def test_scale_and_drain_during_a_reload(pool, wait_for, short_dir):
    pool.start(("serve_version 1", "serve_version 1", "serve_version 1")).ready()
    slow = index(short_dir, "load_for_ever")
    pool.command(("reload", slow))
    wait_for(lambda: pool.slot(0)["beside"] and pool.slot(0)["state"] == "running", what="a process beside")
    index(short_dir, "serve_version 2")
    pool.command(("scale", "2"))
    pool.until_slot(2, state="stopped")
    pool.command(("drain", "0"))
    done = rollout(pool, wait_for, state="done", after="2")
    assert done["replaced"] == 1
    assert [slot["state"] for slot in pool.slots()][1:] == ["running", "stopped"]
    wait_for(lambda: len(pool.processes()) == 3, what="one worker beside parent and broker")


def test_the_death_of_the_broker_changes_nothing(pool, wait_for, short_dir):
    pool.start(("serve_version 1", "serve_version 1")).ready()
    marker = short_dir / "marker"
    pool.command(("reload", index(short_dir, f"serve_once_there {marker}:2")))
    wait_for(lambda: pool.slot(0)["beside"], what="a process beside")
    os.kill(pool.state()["broker"]["pid"], signal.SIGKILL)
    wait_for(lambda: pool.heard("Slots")[-1]["rollout"]["state"] == "loading" and pool.state()["broker"]["restarts"] == 1)
    marker.touch()
    rollout(pool, wait_for, state="done", after="2")


def test_without_room_the_old_one_is_drained_first_and_that_is_said(pool, wait_for, short_dir):
    """On a CUDA device whose memory nobody can read there is no room."""
    pool.start(("serve_version 1",), device="cuda:0").ready()
    pool.command(("reload", index(short_dir, "serve_version 2")))
    rollout(pool, wait_for, state="done", after="2")
    said = pool.err_file.read_text()
    assert "there is no room for a second process, so the old one is drained first; nobody else serves meanwhile" in said
    pool.command(("reload", index(short_dir, "fail 78:no such index", "broken")))
    rollout(pool, wait_for, state="failed", told="no such index; version 2 serves on")
    pool.until_slot(0, state="running", index_version="2")


def test_sighup_reloads_where_there_is_no_terminal(pool, wait_for):
    pool.start(("serve_version 1",)).ready()
    pool.signal(signal.SIGHUP)
    told = rollout(pool, wait_for, state="done", ticket="SIGHUP")
    assert told["told"] == f"version 1 is what {os.path.realpath('first')} still is: nothing to replace"
    pool.signal(signal.SIGTERM)
    assert pool.wait() == 0


def test_sighup_during_a_reload_is_another_one_after_it(pool, wait_for, short_dir):
    marker = short_dir / "marker"
    pool.start(("serve_version 1",)).ready()
    pool.command(("reload", index(short_dir, f"serve_once_there {marker}:2")))
    wait_for(lambda: pool.slot(0)["beside"], what="a process beside")
    pool.signal(signal.SIGHUP)
    wait_for(lambda: "SIGHUP: a reload when this one is over" in pool.journal())
    index(short_dir, "serve_version 3")
    marker.touch()
    assert rollout(pool, wait_for, state="done", ticket="SIGHUP")["told"] == "2 -> 3, 1 worker replaced"


def test_sighup_before_the_pool_is_ready_waits_until_it_is(pool, wait_for, short_dir):
    marker = short_dir / "marker"
    pool.start((f"serve_once_there {marker}:1",))
    wait_for(lambda: pool.slot(0)["pid"], what="a process that loads")
    pool.signal(signal.SIGHUP)
    wait_for(lambda: "SIGHUP: a reload" in pool.journal())
    marker.touch()
    assert "nothing to replace" in rollout(pool, wait_for, state="done", ticket="SIGHUP")["told"]


def test_sighup_ends_a_pool_in_a_terminal(pool, wait_for):
    leader, terminal = os.openpty()
    try:
        pool.start(("serve_version 1",), stdin=terminal).ready()
        pool.signal(signal.SIGHUP)
        assert pool.wait() == 0
        assert pool.state()["rollout"]["state"] == "", "it drained, and reloaded nothing"
    finally:
        os.close(leader)
        os.close(terminal)
