"""The status as text: what is unusual is said, what is as usual is not."""

from __future__ import annotations

from typing import Any

from ragpool.broker.cli_render import status_text, without_broker

END = {"reason": "hung in a batch for 31 s", "log_tail": "Thread 0x1\n  in search", "code": None, "signal": "SIGABRT"}


def status(**broker: Any) -> dict[str, Any]:
    usual = {
        "pid": 7, "uptime_s": 5.0, "state": "serving", "queue_depth": 0, "queue_max": 4096, "in_flight": 0, "clients": 1,
        "restarts": 0, "last_exit": None, "trouble": "", "rolling": "",
    }  # fmt: skip
    slot = {"slot": 0, "device": "cpu", "state": "running", "detail": "", "restarts": 0, "last_exit": None}
    return {
        "broker": {**usual, **broker},
        "workers": [],
        "slots": [slot],
        "totals": {"requests": 1, "replies": 1, "errors": {}, "retries": 0},
    }


def test_all_is_well() -> None:
    assert status_text(status()).splitlines() == [
        "broker serving (pid 7, up 5 s): 0 of 4096 queued, 0 in flight, 1 clients",
        "1 requests, 1 replies, no errors, 0 retries",
    ]


def test_what_is_unusual_is_said() -> None:
    told = status(trouble="the log cannot be written: full", rolling="slot 0 is replaced, 1 to go", restarts=2, last_exit=END)
    told["slots"][0].update(detail="stopped by a signal", last_exit=END, restarts=1)
    text = status_text(told)
    assert "trouble: the log cannot be written: full" in text
    assert "restart of the workers of other hosts: slot 0 is replaced, 1 to go" in text
    assert "the broker was restarted 2 times; last end: hung in a batch for 31 s" in text
    assert "slot 0 on cpu: running (stopped by a signal), 1 restarts" in text
    assert "its last words: in search" in text


def test_a_stack_says_where() -> None:
    frames = 'Current thread 0x7 (most recent call first):\n  File "pipeline.py", line 7 in search\n  File "x"'
    stack = "Fatal Python error: Aborted\n\n" + frames
    told = status()
    told["slots"][0].update(last_exit={**END, "stack": stack, "log_tail": "Extension modules: numpy"}, restarts=1)
    assert 'it was at File "pipeline.py", line 7 in search; all stacks' in status_text(told)
    assert "Extension modules" not in status_text(told)


def test_a_reload_and_what_loads_beside_a_worker_are_told() -> None:
    told = status() | {"rollout": {"kind": "reload", "state": "loading", "told": "slot 0 gets a new process"}}
    told["slots"][0].update(beside={"pid": 12, "state": "starting"})
    text = status_text(told)
    assert "reload: loading, slot 0 gets a new process" in text
    assert "beside it process 12: starting" in text
    down = without_broker({"rollout": {"kind": "restart", "state": "done", "told": "2 workers replaced"}, "slots": []})
    assert "restart of all workers: done, 2 workers replaced" in status_text(down)
    assert without_broker({"rollout": {"kind": ""}, "slots": []})["rollout"] is None


def test_a_stopped_broker_is_not_said_to_come_back() -> None:
    state = {"broker": {"detail": "stopped by a signal", "restarts": 0, "last_exit": None}, "slots": []}
    assert "left alone until SIGCONT" in status_text(without_broker(state))
    assert "is bringing it back" in status_text(without_broker({"broker": {"last_exit": END}}))
