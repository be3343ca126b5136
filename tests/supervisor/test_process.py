"""One child at a time, in real processes: what it is given, how its end is seen, how it dies with its parent."""

import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time

import pytest
from ragpool.supervisor.logs import LOG_MAX_BYTES, tail
from ragpool.supervisor.process import PROBE, WORKER, Child, ChildSpec, spawn

pytestmark = pytest.mark.process
CHILDREN = os.path.join(os.path.dirname(__file__), "children")


@pytest.fixture
def start(short_dir):
    """Starts children with a death pipe of their own; `start.life` is its write end."""
    death_fd, life_fd = os.pipe()
    started = []

    def begin(*args: str, kind: str = WORKER, module: str = "stub_worker") -> Child:
        spec = ChildSpec(kind, module, args, slot=0, device="cpu", env={"PYTHONPATH": CHILDREN})
        started.append(spawn(spec, death_fd=death_fd, log=short_dir / "worker-0.log"))
        return started[-1]

    begin.life = life_fd
    yield begin
    for child in started:
        child.send(signal.SIGKILL)
        assert child.wait(5.0)
        child.close()
    os.close(death_fd)
    if begin.life >= 0:
        os.close(begin.life)


def readable(descriptor, seconds=15.0):
    return select.select([descriptor], [], [], seconds)[0] == [descriptor]


def is_ready(child):
    return readable(child.ready_fd) and os.read(child.ready_fd, 9) == b"1"


def test_it_says_that_it_has_loaded_and_its_end_is_seen_at_once(start):
    child = start("serve")
    assert is_ready(child)
    assert child.reap() is None
    before = time.monotonic()
    child.send(signal.SIGKILL)
    assert readable(child.pidfd)
    assert child.reap() == -signal.SIGKILL
    assert time.monotonic() - before < 0.2
    child.send(signal.SIGTERM)


@pytest.mark.parametrize("code", [0, 1, 70, 75, 78])
def test_exit_code_and_last_words_arrive(start, code):
    child = start("fail", f"{code}:no such index")
    assert readable(child.pidfd)
    assert child.reap() == code
    assert child.last_log() == "first words\nno such index\n"
    assert readable(child.ready_fd)
    assert os.read(child.ready_fd, 9) == b"", "it ended without having loaded"


def test_a_crash_leaves_a_stack_and_what_was_running(start):
    child = start("crash")
    assert is_ready(child)
    assert readable(child.pidfd)
    assert child.reap() == -signal.SIGSEGV
    assert child.progress().running == (b"q" * 16, b"r" * 16)
    assert "Fatal Python error: Segmentation fault" in child.last_log()
    assert "in crash" in child.last_log()


def test_every_incarnation_has_an_identity_and_a_log_of_its_own(start):
    first = start("fail", "1:the first")
    assert readable(first.pidfd)
    second = start("fail", "1:the second")
    assert readable(second.pidfd)
    assert first.incarnation != second.incarnation
    assert len(bytes.fromhex(first.incarnation)) == 8
    assert second.last_log() == "first words\nthe second\n"


def test_a_log_that_is_too_long_is_put_aside(start, short_dir):
    log = short_dir / "worker-0.log"
    log.write_bytes(b"x" * (LOG_MAX_BYTES + 1))
    child = start("fail", "1:boom")
    assert readable(child.pidfd)
    assert log.read_text() == "first words\nboom\n"
    assert (short_dir / "worker-0.log.1").stat().st_size == LOG_MAX_BYTES


def test_a_log_that_cannot_be_written_costs_only_the_log(start, short_dir):
    (short_dir / "worker-0.log").mkdir()
    child = start("serve")
    assert is_ready(child)
    assert child.last_log() == ""


def test_it_stands_in_a_session_of_its_own_without_core_or_stdin(start):
    child = start("serve")
    assert is_ready(child)
    assert os.getsid(child.pid) == child.pid
    assert resource.prlimit(child.pid, resource.RLIMIT_CORE) == (0, 0)
    assert os.readlink(f"/proc/{child.pid}/fd/0") == "/dev/null"


def test_it_inherits_what_it_was_given_and_nothing_else(start, short_dir):
    with open(short_dir / "secret", "w") as secret:
        os.set_inheritable(secret.fileno(), True)
        child = start("serve")
        assert is_ready(child)
        open_there = [os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{child.pid}/fd")]
    assert not any("secret" in name for name in open_there)
    assert sum("memfd:ragpool-progress" in name for name in open_there) == 1


def test_other_kinds_get_nothing_appended(start, short_dir):
    child = start("0", "done", kind=PROBE, module="stub_probe")
    assert readable(child.pidfd)
    assert child.reap() == 0
    assert child.ready_fd is child.progress_fd is None
    assert child.incarnation == ""


@pytest.mark.parametrize("behaviour", ["serve", "load_for_ever"])
def test_the_death_pipe_alone_ends_it(start, behaviour):
    """Its parent lives; only the write end of the pipe is closed."""
    child = start(behaviour)
    if behaviour == "serve":
        assert is_ready(child)
    os.close(start.life)
    start.life = -1
    assert readable(child.pidfd, 3.0)
    assert child.reap() == -signal.SIGKILL


def test_a_child_of_another_parent_refuses_to_live():
    death_fd, life_fd = os.pipe()
    command = [sys.executable, "-m", "ragpool.supervisor.child", "--parent", "1", "--death-fd", str(death_fd), "antigravity"]
    try:
        assert subprocess.run(command, pass_fds=[death_fd], timeout=15).returncode == 1
    finally:
        os.close(death_fd)
        os.close(life_fd)


def test_the_launcher_imports_next_to_nothing_before_it_is_tied():
    program = "import sys; before = set(sys.modules); import ragpool.supervisor.child; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True, timeout=15
    ).stdout.split()
    heavy = {"asyncio", "json", "logging", "msgpack", "numpy", "subprocess", "threading", "torch", "typing", "zmq"}
    assert not heavy & {name.split(".")[0] for name in loaded}
    assert not {name for name in loaded if name.startswith("ragpool.")} - {"ragpool.supervisor", "ragpool.supervisor.child"}


def test_children_start_from_the_main_thread_only(short_dir):
    caught = []

    def begin():
        try:
            spawn(ChildSpec(WORKER, "stub_worker"), death_fd=0)
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    assert caught == ["children are started from the main thread: they die with the thread that starts them"]


def test_what_cannot_be_started_leaves_nothing_open(monkeypatch, short_dir):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="No such file"):
        spawn(ChildSpec(WORKER, "stub_worker", slot=0), death_fd=0, log=short_dir / "log")
    assert os.listdir("/proc/self/fd") == before


def test_a_tail_is_whole_lines():
    text = "".join(f"line {i} ü\n" for i in range(1000))
    assert tail("short") == "short"
    assert len(tail(text).encode()) <= 2048
    assert tail(text).startswith("line ")
    assert text.endswith(tail(text))
