"""Real workers that fail on purpose: their neighbours are answered, and what must be said is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pools import Pool, running_pool, wait_until
from ragpool.client import AsyncClient, Client, PoisonRequest

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

FAULTS = Path(__file__).resolve().parents[1] / "support" / "faults"


@pytest.fixture(scope="module")
def pool(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    flags = ("--index", str(index), "--workers", "2", "--device", "cpu")
    env = {"PYTHONPATH": str(FAULTS), "RAGPOOL_SUPERVISOR__BACKOFF_MIN_S": "0.1"}
    with running_pool(tmp_path_factory.mktemp("faulty"), *flags, env=env) as pool:
        yield pool


def ends(pool: Pool) -> int:
    return sum(len(slot["exits"]) for slot in pool.status()["slots"])


def test_a_poison_query_ends_few_workers_and_no_neighbour(pool: Pool) -> None:
    before = pool.status()["totals"]["hedges"]
    with Client(pool.url, timeout=120) as client:
        innocent = [client.submit(f"an innocent question {n}") for n in range(40)]
        poison = client.submit("fault:crash now")
        innocent += [client.submit(f"another innocent question {n}") for n in range(40)]
        with pytest.raises(PoisonRequest):
            poison.result(120)
        assert all(len(future.result(120)) == 5 for future in innocent)
        # in its batch, in a half of it, alone, and alone again; a slow death may be hedged before it is known
        died, hedged = ends(pool), pool.status()["totals"]["hedges"] - before
        assert 1 <= died <= 4 + bool(hedged)
        with pytest.raises(PoisonRequest):
            client.search("fault:crash now", timeout=5)
        assert ends(pool) == died, "the second time it is refused at once"
    pool.wait_workers(2)
    told = next(slot["last_exit"] for slot in pool.status()["slots"] if slot["last_exit"])
    assert "SIGSEGV" in told["reason"]
    assert "Segmentation fault" in told["stack"]


def test_what_hangs_with_one_worker_is_answered_by_the_other(pool: Pool) -> None:
    pool.wait_workers(2)
    with Client(pool.url, timeout=60) as client:
        slow = client.submit("fault:slow:8 please")
        wait_until(lambda: pool.status()["broker"]["in_flight"] >= 1, 10, "the slow one to run")
        futures = [client.submit(f"a question beside a slow one {n}") for n in range(30)]
        assert all(len(future.result(30)) == 5 for future in futures)
        assert len(slow.result(60)) == 5
        wait_until(lambda: pool.status()["totals"]["hedges"] >= 1, 10, "a hedge")


def test_a_client_that_vanishes_takes_its_queue_along(pool: Pool) -> None:
    """Its socket closes without a word, as that of a killed process does."""
    import zmq
    from ragpool.wire import bodies, codec
    from ragpool.wire.messages import Hello, Request

    pool.wait_workers(2)
    cancelled = pool.status()["totals"]["cancelled"]
    with zmq.Context() as context:
        socket = context.socket(zmq.DEALER)
        socket.connect(pool.url)
        socket.send_multipart(codec.encode(Hello()))
        for number in range(60):
            body = bodies.search_body([f"fault:slow:0.2 {number}"])
            socket.send_multipart(codec.encode(Request(number.to_bytes(16, "big"), "search", 1, 5, 60_000, body=body)))
        wait_until(lambda: pool.status()["broker"]["queue_depth"] > 10, 10, "a queue")
        socket.close(linger=0)
    wait_until(lambda: pool.status()["totals"]["cancelled"] > cancelled, 2, "its requests to be dropped")
    wait_until(lambda: pool.status()["broker"]["queue_depth"] == 0, 2, "an empty queue")


def test_an_async_client_keeps_its_own_deadline(pool: Pool) -> None:
    import asyncio

    from ragpool.client import DeadlineExceeded

    async def ask() -> None:
        async with AsyncClient(pool.url) as client:
            with pytest.raises(DeadlineExceeded):
                await client.search("fault:slow:3 and too slow", timeout=0.5)

    asyncio.run(ask())
