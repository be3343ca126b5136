"""Return codes in words, and whose doing they are."""

import signal

import pytest
from ragpool.supervisor.exits import AGAIN, CONFIGURATION, FAULT, OPERATOR, OURS, classify, doomed, find_stack, last_line
from ragpool.supervisor.oom import OomKills
from ragpool.wire import exit_codes


@pytest.mark.parametrize(
    ("returncode", "reason", "cause", "blame"),
    [
        (-signal.SIGKILL, "killed by SIGKILL", OPERATOR, False),
        (-signal.SIGTERM, "killed by SIGTERM", OPERATOR, False),
        (-signal.SIGINT, "killed by SIGINT", OPERATOR, False),
        (-signal.SIGSEGV, "killed by SIGSEGV", FAULT, True),
        (-signal.SIGABRT, "killed by SIGABRT", FAULT, True),
        (-signal.SIGBUS, "killed by SIGBUS", FAULT, True),
        (-40, "killed by signal 40", FAULT, True),
        (exit_codes.DRAINED, "drained", OPERATOR, False),
        (exit_codes.FAILURE, "exit code 1", FAULT, True),
        (exit_codes.CUDA_BROKEN, "exit code 70 (CUDA error)", FAULT, True),
        (exit_codes.AGAIN, "asked to be started again", AGAIN, False),
        (exit_codes.CONFIGURATION, "configuration: no such index", CONFIGURATION, False),
        (3, "exit code 3", FAULT, True),
    ],
)
def test_an_end_in_words(returncode, reason, cause, blame):
    end = classify(returncode, sentence="no such index")
    assert (end.reason, end.cause, end.blame) == (reason, cause, blame)
    assert (end.code is None) == (returncode < 0)
    assert (end.signal is None) == (returncode >= 0)


def test_our_own_stop_is_nobodys_fault_but_a_crash_on_the_way_out_is():
    assert classify(-signal.SIGTERM, was_ours=True).cause == OURS
    assert classify(-signal.SIGKILL, was_ours=True).cause == OURS
    assert classify(0, was_ours=True).cause == OURS
    assert classify(-signal.SIGSEGV, was_ours=True).blame
    assert classify(1, was_ours=True).blame


def test_a_kill_for_memory_is_its_own_fault():
    end = classify(-signal.SIGKILL, oom=True)
    assert end.blame
    assert end.cause == FAULT
    assert end.reason == "killed by SIGKILL (out of memory)"
    assert classify(-signal.SIGTERM, oom=True).cause == OPERATOR


def test_whom_we_end_for_its_fault_has_that_fault():
    assert doomed("broke the channel", -signal.SIGKILL).cause == FAULT
    assert doomed("broke the channel", 0).code == 0


def test_the_sentence_is_the_last_line_with_words():
    assert last_line("Traceback\n  no such index \n\n") == "no such index"
    assert last_line("\n") == ""


def test_a_stack_is_found_in_a_log():
    dump = (
        'Fatal Python error: Segmentation fault\n\nCurrent thread 0x0001 (most recent call first):\n  File "x.py", line 1 in f\n'
    )
    assert find_stack("loading\n" + dump) == dump
    assert find_stack("all is well") is None


def test_each_memory_kill_explains_one_death(tmp_path):
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 1\noom_kill 3\n")
    kills = OomKills(events)
    assert not kills.explains_one()
    events.write_text("oom_kill 5\n")
    assert kills.explains_one()
    assert kills.explains_one()
    assert not kills.explains_one()
    events.write_text("oom_kill 9\n")
    kills.forget()
    assert not kills.explains_one()
    events.unlink()
    assert not kills.explains_one()
    assert not OomKills(tmp_path).explains_one()
