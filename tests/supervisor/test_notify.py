"""What a service manager hears, on a real datagram socket."""

import os
import secrets
import signal
import socket

import pytest
from ragpool.supervisor.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request, short_dir):
    address = str(short_dir / "notify") if request.param == "path" else "@ragpool-" + secrets.token_hex(6)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + address[1:] if address.startswith("@") else address)
        listener.setblocking(False)
        yield address, listener


def heard(listener):
    found = []
    while True:
        try:
            found.append(listener.recv(4096).decode())
        except BlockingIOError:
            return found


def test_it_says_what_happens_and_takes_its_variables_away(manager):
    address, listener = manager
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    notifier = Notifier(environment)
    assert environment == {"HOME": "/"}, "children do not speak for us"
    notifier.status("starting")
    notifier.status("starting")
    notifier.ready()
    notifier.stopping()
    assert heard(listener) == ["STATUS=starting", "READY=1", "STOPPING=1"]


def test_the_watchdog_is_fed_by_progress_alone(manager):
    address, listener = manager
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000"})
    for now, answers in ((10.0, 1), (10.5, 2), (11.0, 3), (12.0, 3), (60.0, 3), (60.5, 4)):
        notifier.feed(answers, now)
    assert heard(listener) == ["WATCHDOG=1"] * 3, "at 10, at 11, and at 60.5 when the broker answered again"


def test_another_process_s_watchdog_is_not_ours(manager):
    address, listener = manager
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"})
    notifier.feed(1, 10.0)
    assert heard(listener) == []


def test_nobody_listens_and_nothing_happens(short_dir):
    Notifier({"NOTIFY_SOCKET": str(short_dir / "nobody")}).ready()
    Notifier({}).ready()


@pytest.mark.process
def test_a_service_is_ready_fed_and_stopped(manager, pool, wait_for, monkeypatch):
    address, listener = manager
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    said = []

    def hears(word):
        said.extend(heard(listener))
        return word in said

    pool.start(("beat", "beat")).ready()
    wait_for(lambda: hears("READY=1") and hears("STATUS=serving, 2 of 2 workers run"))
    said.clear()
    wait_for(lambda: hears("WATCHDOG=1"))
    broker = pool.state()["broker"]["pid"]
    os.kill(broker, signal.SIGSTOP)
    wait_for(lambda: pool.state()["broker"]["detail"])
    said.clear()
    pool.signal(signal.SIGTERM)
    os.kill(broker, signal.SIGCONT)
    assert pool.wait() == 0
    assert hears("STOPPING=1")
    assert said.count("WATCHDOG=1") <= 4, "a broker that does not answer feeds nothing"
