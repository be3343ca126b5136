"""`Client` over a real socket, against brokers that misbehave in one way each."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from typing import Any

import numpy as np
import pytest
from broker_doubles import (
    BusyBroker,
    DroppingBroker,
    EchoBroker,
    ForgetfulBroker,
    FullBroker,
    GarbledBroker,
    LateBroker,
    MuteBroker,
    NarrowBroker,
    OtherVersionBroker,
    RefusingBroker,
    RepeatingBroker,
    wait_for,
)
from ragpool.client import (
    BadRequest,
    BrokerUnreachable,
    Client,
    ClientClosed,
    DeadlineExceeded,
    Hit,
    Hits,
    Overloaded,
    Passage,
    PoisonRequest,
    RemoteFailure,
    VersionMismatch,
    link,
)
from ragpool.wire.messages import Bye, Cancel, Hello, Request

NOBODY = "tcp://127.0.0.1:9"


def took(action: Callable[[], Any]) -> float:
    start = time.monotonic()
    action()
    return time.monotonic() - start


# ---- answers --------------------------------------------------------------------------------------------------------


def test_every_operation() -> None:
    with EchoBroker() as broker, Client(broker.url) as client:
        hits = client.search("a", top_k=2)
        assert isinstance(hits, Hits)
        assert hits[0] == Hit("a", 1.0, "text of a", "title of a", {"n": 1})
        assert [hit.id for hit in hits] == ["a", "a/1"]
        assert hits.index_version == "v1"
        assert hits.truncated is True
        assert len(client.search("a")) == 3  # the broker's default_top_k
        many = client.search_many([f"q{n}" for n in range(100)], top_k=1)
        assert [hits[0].id for hits in many] == [f"q{n}" for n in range(100)]
        assert client.submit("b", 1).result(5)[0].id == "b"
        assert client.search_vector(np.ones(4, np.float32), top_k=1)[0].id == "4/0"
        assert client.embed(["a", "b"]).tolist() == [[1.0, 2.0], [1.0, 2.0]]
        assert client.embed(["a"], kind="passage").tolist() == [[1.0, 3.0]]
        assert client.fetch(["x", "y"]) == [Passage(i, f"text of {i}", f"title of {i}", {"n": 1}) for i in ("x", "y")]
        assert client.status() == {"broker": {"state": "serving"}}


def test_the_keyword_arguments_travel() -> None:
    with EchoBroker() as broker, Client(broker.url, timeout=30) as client:
        client.search("a", 4, timeout=5.0, priority=-3, collection="books")
        (request,) = broker.of(Request)
        assert (request.top_k, request.priority, request.collection, request.items) == (4, -3, "books", 1)
        assert 4_000 < request.remaining_ms <= 5_000


def test_hits_survive_pickling() -> None:
    hits = Hits([Hit("a", 0.5, "text")], "v1", {"encode": 1.0}, True)
    again = pickle.loads(pickle.dumps(hits))
    assert again == hits
    assert (again.index_version, again.timings_ms, again.truncated) == ("v1", {"encode": 1.0}, True)
    assert len({hits[0], again[0]}) == 1


def test_fifty_threads_share_one_client() -> None:
    wrong: list[str] = []

    def ask(name: int) -> None:
        futures = {f"{name}-{n}": client.submit(f"{name}-{n}", 1) for n in range(20)}
        wrong.extend(query for query, future in futures.items() if future.result(20)[0].id != query)

    with EchoBroker() as broker, Client(broker.url) as client:
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert wrong == []
        assert len({request.id for request in broker.of(Request)}) == 1_000
        assert len(broker.of(Hello)) == 1


def test_what_is_submitted_together_travels_together() -> None:
    with EchoBroker() as broker, Client(broker.url) as client:
        client.search("warm")
        before = broker.messages
        client.search_many([f"q{n}" for n in range(640)], top_k=1)
        assert broker.messages - before == 1


def test_a_repeated_answer_is_dropped() -> None:
    with RepeatingBroker() as broker, Client(broker.url) as client:
        for n in range(20):
            assert client.search(f"q{n}", 1)[0].id == f"q{n}"


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [NOBODY, "tcp://127.0.0.1:99999", "tcp://no-such-host.invalid:5555", "ipc:///nowhere/at/all"])
def test_no_broker_is_unreachable_within_the_connect_timeout(url: str) -> None:
    with Client(url, timeout=60.0, connect_timeout=0.3) as client:
        start = time.monotonic()
        with pytest.raises(BrokerUnreachable) as caught:
            client.search("a")
        assert time.monotonic() - start < 1.0
        assert url in str(caught.value)
        assert caught.value.retryable


def test_a_listener_that_says_nothing_is_unreachable_too() -> None:
    with MuteBroker() as broker, Client(broker.url, connect_timeout=0.2) as client, pytest.raises(BrokerUnreachable):
        client.search("a")


def test_a_broker_that_comes_after_the_client_serves_it() -> None:
    with EchoBroker() as first:
        url = first.url
    with Client(url, connect_timeout=10.0) as client:
        future = client.submit("a", 1)
        with EchoBroker(url):
            assert future.result(10)[0].id == "a"


def test_the_deadline_is_kept_and_the_broker_told() -> None:
    with DroppingBroker() as broker, Client(broker.url) as client:
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded) as caught:
            client.search("a", timeout=0.2)
        assert 0.2 <= time.monotonic() - start < 0.6
        wait_for(lambda: broker.of(Cancel))
        assert broker.of(Cancel)[0].id.hex() == caught.value.request_id


def test_busy_is_retried() -> None:
    with BusyBroker() as broker, Client(broker.url) as client:
        assert client.search("a", 1)[0].id == "a"
        assert len(broker.of(Request)) == 3


def test_overloaded_when_there_is_no_room_before_the_deadline() -> None:
    with FullBroker() as broker, Client(broker.url) as client:
        with pytest.raises(Overloaded) as caught:
            client.search("a", timeout=5.0)
        assert caught.value.retry_after == 60.0


def test_an_error_of_the_pool_is_raised_as_its_class() -> None:
    with RefusingBroker() as broker, Client(broker.url) as client:
        with pytest.raises(PoisonRequest, match="it ended a worker") as caught:
            client.search_many(["fine"] * 40 + ["poison"])
        assert not caught.value.retryable
        assert "queries[" in str(caught.value)
        assert client.search("fine")


def test_a_garbled_answer_is_a_remote_failure() -> None:
    with GarbledBroker() as broker, Client(broker.url) as client:
        for _ in range(3):
            with pytest.raises(RemoteFailure):
                client.search("a", timeout=0.5)


def test_another_version_is_said_at_once() -> None:
    with OtherVersionBroker() as broker, Client(broker.url) as client:
        for _ in range(2):
            with pytest.raises(VersionMismatch, match="RP9"):
                client.search("a")


def test_replies_that_are_too_large_are_asked_in_halves() -> None:
    with NarrowBroker() as broker, Client(broker.url) as client:
        texts = [f"q{n}" for n in range(40)]
        assert [hits[0].id for hits in client.search_many(texts)] == texts


def test_a_wrong_argument_opens_no_connection() -> None:
    with Client(NOBODY) as client:
        with pytest.raises(BadRequest):
            client.search("")
        with pytest.raises(BadRequest):
            client.search("a", timeout=-1)
        assert client._link is None
    with pytest.raises(BadRequest):
        Client("nonsense")


def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGPOOL_BROKER", "tcp://127.0.0.1:7777")
    assert Client().url == "tcp://127.0.0.1:7777"
    assert Client("tcp://127.0.0.1:1").url == "tcp://127.0.0.1:1"
    monkeypatch.delenv("RAGPOOL_BROKER")
    assert Client().url == "tcp://127.0.0.1:5555"


# ---- brokers come and go --------------------------------------------------------------------------------------------


def test_a_broker_replaced_under_pending_requests_goes_unnoticed() -> None:
    first = DroppingBroker()
    with Client(first.url) as client:
        futures = [client.submit(f"q{n}", 1) for n in range(10)]
        wait_for(lambda: len(first.of(Request)) == 10)
        first.stop()
        with EchoBroker(first.url, epoch="epoch-2") as second:
            assert [future.result(15)[0].id for future in futures] == [f"q{n}" for n in range(10)]
            assert {request.id for request in second.of(Request)} == {request.id for request in first.of(Request)}


def test_a_broker_replaced_while_nothing_is_pending_goes_unnoticed() -> None:
    first = EchoBroker()
    with Client(first.url) as client:
        client.search("a")
        first.stop()
        with EchoBroker(first.url, epoch="epoch-2"):
            assert took(lambda: client.search("b")) < 5.0


def test_after_a_first_welcome_a_gap_is_ridden_out_until_the_deadline() -> None:
    broker = EchoBroker()
    with Client(broker.url, connect_timeout=0.1) as client:
        client.search("a")
        broker.stop()
        with pytest.raises(DeadlineExceeded):
            client.search("b", timeout=0.5)


def test_a_broker_that_forgot_the_client_gets_everything_again() -> None:
    with ForgetfulBroker() as broker, Client(broker.url) as client:
        assert client.search("a", 1)[0].id == "a"
        first, second = broker.of(Request)
        assert first.id == second.id


# ---- cancelling -----------------------------------------------------------------------------------------------------


def test_cancelling_a_future_cancels_in_the_broker() -> None:
    with LateBroker() as broker, Client(broker.url) as client:
        future = client.submit("a", 1)
        (request,) = wait_for(lambda: broker.of(Request))
        assert not future.done()
        assert future.cancel()
        assert future.cancel()
        (cancel,) = wait_for(lambda: broker.of(Cancel))
        assert cancel.id == request.id
        with pytest.raises(CancelledError):
            future.result(1)
        done, _ = wait([future], 5)  # who waits for several futures learns of it too
        assert done == {future}
        broker.released.set()
        assert client.search("b", 1)[0].id == "b"


def test_an_answered_future_cannot_be_cancelled() -> None:
    with EchoBroker() as broker, Client(broker.url) as client:
        future = client.submit("a", 1)
        future.result(5)
        assert not future.cancel()
        client.search("b")
        assert broker.of(Cancel) == []


def test_ctrl_c_in_a_waiting_call_cancels_it() -> None:
    def interrupt() -> None:
        wait_for(lambda: broker.of(Request))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with DroppingBroker() as broker, Client(broker.url) as client:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            client.search("a")
        thread.join(5)
        wait_for(lambda: broker.of(Cancel))


# ---- the end of a client --------------------------------------------------------------------------------------------


def test_close_fails_what_is_pending_and_what_comes() -> None:
    with DroppingBroker() as broker:
        client = Client(broker.url)
        futures = [client.submit(f"q{n}") for n in range(5)]
        wait_for(lambda: broker.of(Request))
        assert took(client.close) < 1.0
        for future in futures:
            assert isinstance(future.exception(1), ClientClosed)
        with pytest.raises(ClientClosed, match="the client is closed"):
            client.search("a")
        client.close()
        wait_for(lambda: broker.of(Bye))


def test_close_wakes_a_thread_that_waits() -> None:
    caught: list[BaseException] = []

    def ask() -> None:
        try:
            client.search("a")
        except ClientClosed as error:
            caught.append(error)

    with DroppingBroker() as broker:
        client = Client(broker.url)
        thread = threading.Thread(target=ask)
        thread.start()
        wait_for(lambda: broker.of(Request))
        client.close()
        thread.join(5)
        assert len(caught) == 1


def test_a_client_that_was_never_used_has_nothing_to_close() -> None:
    client = Client(NOBODY)
    client.close()
    client.close()


def test_closing_races_with_calls_and_nobody_hangs() -> None:
    with EchoBroker() as broker:
        for _ in range(20):
            client = Client(broker.url)
            futures = []

            def ask(client: Client = client, futures: list[Any] = futures) -> None:
                try:
                    while True:
                        futures.append(client.submit("a", 1))
                except ClientClosed:
                    return

            threads = [threading.Thread(target=ask) for _ in range(3)]
            for thread in threads:
                thread.start()
            wait_for(lambda futures=futures: futures)
            client.close()
            for thread in threads:
                thread.join(5)
            assert not wait(futures, 5).not_done


def test_a_forgotten_client_ends_its_thread() -> None:
    with EchoBroker() as broker:
        client = Client(broker.url)
        client.search("a")
        assert client._link is not None
        thread, gone = client._link._thread, weakref.ref(client)
        del client
        gc.collect()
        assert gone() is None
        thread.join(5)
        assert not thread.is_alive()


def test_a_future_keeps_its_client_alive() -> None:
    with LateBroker() as broker:
        future = Client(broker.url).submit("a", 1)
        wait_for(lambda: broker.of(Request))
        gc.collect()
        broker.released.set()
        assert future.result(5)[0].id == "a"


def test_answered_requests_leave_no_garbage() -> None:
    with EchoBroker() as broker, Client(broker.url) as client:
        client.search("warm", 1)
        gc.collect()
        gc.disable()
        try:
            for n in range(50):
                client.search(f"q{n}", 1)
            gc.collect()
            found = gc.collect()
        finally:
            gc.enable()
        assert found == 0


# ---- other processes ------------------------------------------------------------------------------------------------


def run(script: str, *arguments: str) -> str:
    """Run `script` in a fresh interpreter, which must end by itself, silently."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_pickled_client_reconstructs_itself() -> None:
    with EchoBroker() as broker, Client(broker.url, timeout=7.0, connect_timeout=3.0) as client:
        client.search("a")
        with pickle.loads(pickle.dumps(client)) as again:
            assert again.search("b", 1)[0].id == "b"
            assert again._options == client._options


def test_a_client_is_safe_to_use_after_fork() -> None:
    script = """
        import os, sys
        from ragpool.client import Client

        client = Client(sys.argv[1])
        assert client.search("before", 1)[0].id == "before"
        pending = client.submit("pending", 1)
        child = os.fork()
        if child == 0:
            assert client.search("child", 1)[0].id == "child"
            grandchild = os.fork()
            if grandchild == 0:
                assert client.search("grandchild", 1)[0].id == "grandchild"
                client.close()
                sys.exit(0)
            assert client.search("again", 1)[0].id == "again"
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
        assert client.search("parent", 1)[0].id == "parent"
        assert pending.result(5)[0].id == "pending"
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.search("after", 1)[0].id == "after"
        client.close()
        print("done")
    """
    with EchoBroker() as broker:
        assert run(script, broker.url) == "done\n"
        assert len(broker.of(Hello)) == 3


def test_an_unused_copy_in_a_forked_child_touches_nothing() -> None:
    script = """
        import gc, os, sys
        from ragpool.client import Client

        client = Client(sys.argv[1])
        client.search("before", 1)
        child = os.fork()
        if child == 0:
            client.close()
            del client
            gc.collect()
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.search("after", 1)[0].id == "after"
        print("done")
    """
    with EchoBroker() as broker:
        assert run(script, broker.url) == "done\n"
        assert len(broker.of(Hello)) == 1


@pytest.mark.parametrize("last", ["", "del client", "raise SystemExit(0)", "os._exit(0)"])
def test_the_interpreter_ends_with_requests_pending(last: str) -> None:
    script = f"""
        import os, sys
        from ragpool.client import Client

        client = Client(sys.argv[1])
        future = client.submit("a")
        print("submitted", flush=True)
        {last}
    """
    with DroppingBroker() as broker:
        assert took(lambda: run(script, broker.url)) < 10.0
    assert took(lambda: run(script, NOBODY)) < 10.0


def test_the_interpreter_ends_while_a_link_is_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def ends_first(thread: threading.Thread) -> None:
        if thread.name == "ragpool-client":
            link._stop_all()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", ends_first)
    with Client("tcp://127.0.0.1:9") as client, pytest.raises(ClientClosed):
        client.search("a", timeout=5.0)


def test_the_interpreter_ends_while_a_daemon_thread_waits() -> None:
    script = """
        import sys, threading, time
        from ragpool.client import Client, ClientClosed

        client = Client(sys.argv[1])
        started = threading.Event()

        def ask():
            started.set()
            try:
                client.search("a")
            except ClientClosed:
                pass

        threading.Thread(target=ask, daemon=True).start()
        started.wait()
    """
    with DroppingBroker() as broker:
        run(script, broker.url)


def test_importing_the_client_is_light() -> None:
    script = """
        import sys, time
        start = time.perf_counter()
        import ragpool.client
        took = time.perf_counter() - start
        heavy = {"torch", "faiss", "sentence_transformers", "numpy", "click", "ragpool.conf", "ragpool.index"}
        assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
        print(took)
    """
    assert min(float(run(script)) for _ in range(3)) < 0.3


def test_descriptors_and_threads_do_not_pile_up() -> None:
    with EchoBroker() as broker:
        with Client(broker.url) as client:
            client.search("warm")

        def descriptors() -> int:
            return len(os.listdir("/proc/self/fd"))

        before = descriptors()
        for _ in range(20):
            with Client(broker.url) as client:
                client.search("a")
        wait_for(lambda: descriptors() <= before + 2, what="descriptors to be closed")
        assert sum(thread.name == "ragpool-client" for thread in threading.enumerate()) == 0
