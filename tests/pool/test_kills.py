"""kill -9 of each kind of process while a thousand answers are in flight: all come, all are right, none comes twice."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pools import Pool, alive, run_cli, running_pool, wait_until
from ragpool.client import Client, DeadlineExceeded, Overloaded
from ragpool.index.store import open_index

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

THREADS = 50
EACH = 20
TOP_K = 5


class Oracle:
    """Exact search in float64 over the stored float32 rows, with the query vectors of `client.embed`."""

    def __init__(self, index: Path, client: Client, queries: list[str]) -> None:
        with open_index(index) as opened:
            rows = np.array(opened.vectors.full, np.float64)
            self.ids = [opened.passages.get(row)["id"] for row in range(opened.count)]
        vectors = client.embed(queries).astype(np.float64)
        self.scores = dict(zip(queries, vectors @ rows.T, strict=True))
        self.slack = 1e-6 * float(np.linalg.norm(rows, axis=1).max())

    def is_right(self, query: str, ids: list[str]) -> bool:
        """The top ids, but for ties closer than float32 can tell."""
        scores = self.scores[query]
        best = np.sort(scores)[::-1][: len(ids)]
        given = np.array([scores[self.ids.index(passage_id)] for passage_id in ids])
        return len(set(ids)) == TOP_K and bool((np.abs(given - best) <= self.slack).all())


class Load:
    """`THREADS` threads submit `EACH` futures and wait for all. Counts how often each future was resolved."""

    def __init__(self, url: str, oracle: Oracle, queries: list[str]) -> None:
        self.wrong: list[str] = []
        self.resolved: dict[int, int] = {}
        self._client = Client(url, timeout=120)
        self._oracle = oracle
        self._queries = queries
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(THREADS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(150)
        self._client.close()

    def _run(self, number: int) -> None:
        futures = []
        for i in range(EACH):
            query = self._queries[(number * EACH + i) % len(self._queries)]
            future = self._client.submit(query, top_k=TOP_K)
            future.add_done_callback(lambda done, key=number * EACH + i: self._count(key))
            futures.append((query, future))
        for query, future in futures:
            try:
                ids = [hit.id for hit in future.result()]
            except Exception as error:  # whatever came instead of an answer is the finding
                self.wrong.append(f"{query}: {error!r}")
                continue
            if not self._oracle.is_right(query, ids):
                self.wrong.append(f"{query}: {ids}")

    def _count(self, key: int) -> None:
        with self._lock:
            self.resolved[key] = self.resolved.get(key, 0) + 1

    @property
    def done(self) -> int:
        return len(self.resolved)


@pytest.fixture(scope="module")
def queries() -> list[str]:
    subjects = [
        "a class",
        "a function",
        "an exception",
        "a module",
        "a list",
        "a loop",
        "a generator",
        "an operator",
        "a lambda",
        "scope",
    ]
    asks = ["how do I define {}", "what is {} for", "when does {} raise an error", "the syntax of {}", "an example of {}"]
    return [f"{ask.format(subject)} {n}" for subject in subjects for ask in asks for n in range(4)]


@pytest.fixture(scope="module")
def oracle(pool: Pool, index: Path, queries: list[str]) -> Oracle:
    with Client(pool.url) as client:
        return Oracle(index, client, queries)


def killed_under_load(pool: Pool, oracle: Oracle, queries: list[str], victim: Callable[[], int]) -> int:
    with Load(pool.url, oracle, queries) as load:
        wait_until(lambda: load.done >= 20, 60, "answers to come")
        pid = victim()
        assert load.done < THREADS * EACH, "the kill comes while answers are in flight"
        os.kill(pid, signal.SIGKILL)
    assert load.wrong == []
    assert load.resolved == dict.fromkeys(range(THREADS * EACH), 1)
    return pid


def test_a_worker(pool: Pool, oracle: Oracle, queries: list[str]) -> None:
    victims = pool.worker_pids()
    killed = killed_under_load(pool, oracle, queries, lambda: victims[0])
    pool.wait_workers(2)
    assert killed not in pool.worker_pids()
    last = next(slot["last_exit"] for slot in pool.status()["slots"] if slot["last_exit"])
    assert last["signal"] == "SIGKILL"
    assert "SIGKILL" in last["reason"]


def test_the_broker(pool: Pool, oracle: Oracle, queries: list[str]) -> None:
    workers, broker = pool.worker_pids(), pool.broker_pid()
    killed = killed_under_load(pool, oracle, queries, lambda: broker)
    wait_until(lambda: pool.broker_pid() not in (None, killed), 10, "another broker")
    pool.wait_workers(2)
    assert pool.worker_pids() == workers, "workers keep their model"
    told = pool.status()["broker"]
    assert (told["restarts"], told["last_exit"]["signal"]) == (1, "SIGKILL")
    assert told["exits"] == [told["last_exit"]]


@pytest.fixture
def own_pool(index: Path, tmp_path: Path) -> Iterator[Pool]:
    with running_pool(tmp_path, "--index", str(index), "--workers", "2", "--device", "cpu") as pool:
        yield pool


def test_the_parent_takes_everything_down(own_pool: Pool, oracle: Oracle, queries: list[str]) -> None:
    children = own_pool.pids()
    assert len(children) == 3, "a broker and two workers"
    os.kill(own_pool.process.pid, signal.SIGKILL)
    own_pool.process.wait(5)
    wait_until(lambda: not any(alive(pid) for pid in children), 3, "all children to be gone")
    shown = own_pool.run_status()
    assert shown.returncode == 1
    assert "no pool runs here" in shown.stderr


def test_the_parent_while_workers_load(index: Path, tmp_path: Path) -> None:
    pool = Pool(tmp_path, "--index", str(index), "--workers", "2", "--device", "cpu")
    children = wait_until(lambda: found if len(found := pool.pids()) >= 3 else None, 20, "children")
    os.kill(pool.process.pid, signal.SIGKILL)
    pool.process.wait(5)
    wait_until(lambda: not any(alive(pid) for pid in children), 3, "all children to be gone")


def test_status_answers_while_the_broker_is_down(own_pool: Pool) -> None:
    broker = own_pool.broker_pid()
    os.kill(broker, signal.SIGSTOP)
    try:
        status = own_pool.status()
    finally:
        os.kill(broker, signal.SIGCONT)
    assert status["broker"]["state"] == "down"
    assert status["broker"]["pid"] is None
    assert [slot["state"] for slot in status["slots"]] == ["running", "running"]


def test_a_pool_that_was_drained_stays_so_when_its_broker_dies(own_pool: Pool) -> None:
    assert run_cli("rag-broker", "drain", "--run-dir", str(own_pool.run_dir)).returncode == 0
    broker = own_pool.broker_pid()
    os.kill(broker, signal.SIGKILL)
    wait_until(lambda: own_pool.broker_pid() not in (None, broker), 10, "another broker")
    wait_until(lambda: own_pool.status()["broker"]["state"] == "draining", 5, "it to drain again")
    with Client(own_pool.url, timeout=1.0) as client, pytest.raises((Overloaded, DeadlineExceeded)):
        client.search("anything")
