"""`AsyncClient` over a real socket: the same laws as `Client`, awaited."""

from __future__ import annotations

import asyncio
import gc
import pickle
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from broker_doubles import (
    BusyBroker,
    DroppingBroker,
    EchoBroker,
    GarbledBroker,
    LateBroker,
    OtherVersionBroker,
    RefusingBroker,
)
from ragpool.client import (
    AsyncClient,
    BadRequest,
    BrokerUnreachable,
    ClientClosed,
    DeadlineExceeded,
    Passage,
    PoisonRequest,
    RemoteFailure,
    VersionMismatch,
)
from ragpool.wire.messages import Bye, Cancel, Hello, Request


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    give_up = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        assert time.monotonic() < give_up
        await asyncio.sleep(0.002)


async def error_of(call: Awaitable[Any]) -> BaseException:
    try:
        await call
    except Exception as error:
        return error
    raise AssertionError("no error")


def test_every_operation() -> None:
    async def main(url: str) -> None:
        async with AsyncClient(url) as client:
            hits = await client.search("a", top_k=2, priority=3, collection="books", timeout=5.0)
            assert [hit.id for hit in hits] == ["a", "a/1"]
            many = await client.search_many([f"q{n}" for n in range(100)], top_k=1)
            assert [hits[0].id for hits in many] == [f"q{n}" for n in range(100)]
            assert (await client.submit("b", 1))[0].id == "b"
            assert (await client.search_vector(np.ones(4, np.float32), top_k=1))[0].id == "4/0"
            assert (await client.embed(["a", "b"])).shape == (2, 2)
            assert await client.fetch(["x"]) == [Passage("x", "text of x", "title of x", {"n": 1})]
            assert await client.status() == {"broker": {"state": "serving"}}
            assert await client.search_many([]) == []

    with EchoBroker() as broker:
        asyncio.run(main(broker.url))
        first = broker.of(Request)[0]
        assert (first.priority, first.collection, first.top_k) == (3, "books", 2)
        assert len(broker.of(Hello)) == 1


def test_a_thousand_at_once() -> None:
    async def main(url: str) -> None:
        async with AsyncClient(url) as client:
            answers = await asyncio.gather(*(client.search(f"q{n}", 1) for n in range(1_000)))
            assert [hits[0].id for hits in answers] == [f"q{n}" for n in range(1_000)]

    with EchoBroker() as broker:
        asyncio.run(main(broker.url))
        assert broker.messages < 500


def test_no_broker_is_unreachable_within_the_connect_timeout() -> None:
    async def main() -> None:
        async with AsyncClient("tcp://127.0.0.1:9", connect_timeout=0.2) as client:
            start = time.monotonic()
            assert isinstance(await error_of(client.search("a")), BrokerUnreachable)
            assert time.monotonic() - start < 1.0
        async with AsyncClient("tcp://127.0.0.1:99999", connect_timeout=0.2) as client:
            assert isinstance(await error_of(client.search("a")), BrokerUnreachable)

    asyncio.run(main())


def test_the_deadline_is_kept_and_the_broker_told() -> None:
    async def main() -> None:
        with DroppingBroker() as broker:
            async with AsyncClient(broker.url) as client:
                start = time.monotonic()
                assert isinstance(await error_of(client.search("a", timeout=0.2)), DeadlineExceeded)
                assert 0.19 <= time.monotonic() - start < 0.6
                await until(lambda: broker.of(Cancel))

    asyncio.run(main())


def test_errors_are_raised_as_their_class() -> None:
    async def main() -> None:
        for double, expected in (
            (RefusingBroker, PoisonRequest),
            (GarbledBroker, RemoteFailure),
            (OtherVersionBroker, VersionMismatch),
        ):
            with double() as broker:
                async with AsyncClient(broker.url) as client:
                    assert isinstance(await error_of(client.search("poison", timeout=0.5)), expected)
        with BusyBroker() as broker:
            async with AsyncClient(broker.url) as client:
                assert await client.search("a")

    asyncio.run(main())


def test_cancelling_the_task_cancels_in_the_broker() -> None:
    async def main() -> None:
        with LateBroker() as broker:
            async with AsyncClient(broker.url) as client:
                task = asyncio.create_task(client.search_many([f"q{n}" for n in range(64)], 1))
                requests = await until(lambda: broker.of(Request) if len(broker.of(Request)) == 2 else None)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await until(lambda: len(broker.of(Cancel)) == 2)
                assert {cancel.id for cancel in broker.of(Cancel)} == {request.id for request in requests}
                future = client.submit("b", 1)
                await until(lambda: len(broker.of(Request)) == 3)
                assert future.cancel()
                await until(lambda: len(broker.of(Cancel)) == 3)
                broker.released.set()
                assert (await client.search("c", 1))[0].id == "c"

    asyncio.run(main())


def test_a_timeout_of_asyncio_cancels_in_the_broker() -> None:
    async def main() -> None:
        with DroppingBroker() as broker:
            async with AsyncClient(broker.url) as client:
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(client.search("a"), 0.2)
                await until(lambda: broker.of(Cancel))

    asyncio.run(main())


def test_a_broker_replaced_under_pending_requests_goes_unnoticed() -> None:
    async def main() -> None:
        first = DroppingBroker()
        async with AsyncClient(first.url) as client:
            futures = [client.submit(f"q{n}", 1) for n in range(10)]
            await until(lambda: len(first.of(Request)) == 10)
            first.stop()
            with EchoBroker(first.url, epoch="epoch-2"):
                answers = await asyncio.wait_for(asyncio.gather(*futures), 15)
                assert [hits[0].id for hits in answers] == [f"q{n}" for n in range(10)]

    asyncio.run(main())


def test_close_fails_what_is_pending_and_what_comes() -> None:
    async def main() -> None:
        with DroppingBroker() as broker:
            client = AsyncClient(broker.url)
            future = client.submit("a")
            await until(lambda: broker.of(Request))
            await client.close()
            assert isinstance(await error_of(future), ClientClosed)
            assert isinstance(await error_of(client.search("b")), ClientClosed)
            await client.close()
            await until(lambda: broker.of(Bye))

    asyncio.run(main())


def test_wrong_arguments_and_another_loop_are_refused() -> None:
    with EchoBroker() as broker:
        client = AsyncClient(broker.url)

        async def first() -> None:
            assert isinstance(await error_of(client.search("")), BadRequest)
            assert await client.search("a")

        async def second() -> None:
            error = await error_of(client.search("a"))
            assert isinstance(error, BadRequest)
            assert "another event loop" in str(error)

        asyncio.run(first())
        asyncio.run(second())
        asyncio.run(client.close())


def test_a_forgotten_client_closes_itself() -> None:
    async def main(broker: EchoBroker) -> None:
        client = AsyncClient(broker.url)
        await client.search("a")
        del client
        gc.collect()
        await until(lambda: broker.of(Bye))

    with EchoBroker() as broker:
        asyncio.run(main(broker))


def test_a_client_forgotten_after_its_loop_closes_its_socket() -> None:
    async def main() -> AsyncClient:
        client = AsyncClient(broker.url)
        await client.search("a")
        return client

    with EchoBroker() as broker:
        client = asyncio.run(main())
        assert client._link is not None
        link = client._link
        assert link._dealer is not None
        del client
        gc.collect()
        assert link._dealer is None


def test_a_pickled_client_reconstructs_itself() -> None:
    client = AsyncClient("tcp://127.0.0.1:9", timeout=7.0, connect_timeout=3.0)
    assert pickle.loads(pickle.dumps(client))._options == client._options
