"""`AsyncClient`: the same client for asyncio, on the same session. It checks, hands over, and awaits; the link does the rest.

A client belongs to the event loop of its first call; another loop needs a client of its own. It wants a loop with `add_reader`
(on Windows: the selector loop).
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ..wire.errors import BadRequest, ClientClosed
from . import asks
from .asks import DEFAULT_BROKER, Ask
from .async_link import INHERITED, AsyncLink, abandon
from .calls import Call
from .hit import Hits, Passage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio: the same arguments, names, answers and errors, awaited.

    Cancelling a task that awaits an answer cancels the request in the broker. Use `async with`, or `await close()`.
    """

    def __init__(self, url: str | None = None, *, timeout: float = 60.0, connect_timeout: float = 2.0) -> None:
        self._options = asks.options(url, os.environ.get("RAGPOOL_BROKER") or DEFAULT_BROKER, timeout, connect_timeout)
        self._link: AsyncLink | None = None
        self._closed = False

    @property
    def url(self) -> str:
        return self._options.url

    # ---- requests -------------------------------------------------------------------------------------------------------

    async def search(
        self,
        query: str,
        top_k: int | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        collection: str = "default",
    ) -> Hits:
        """The `top_k` passages nearest to `query`, best first (None: as many as the broker gives by default)."""
        return await self._start(asks.search(query, top_k, priority, collection), timeout)

    async def search_many(
        self,
        queries: Iterable[str],
        top_k: int | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        collection: str = "default",
    ) -> list[Hits]:
        """`search` for any number of queries at once, in their order; `timeout` is that of the whole. Fails as a whole."""
        return await self._start(asks.search_many(queries, top_k, priority, collection), timeout)

    def submit(
        self,
        query: str,
        top_k: int | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        collection: str = "default",
    ) -> asyncio.Future[Hits]:
        """`search` as an `asyncio.Future`; its `cancel()` cancels in the broker. Call it inside the running loop."""
        return self._start(asks.search(query, top_k, priority, collection), timeout)

    async def search_vector(
        self,
        vector: NDArray[np.float32],
        top_k: int | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        collection: str = "default",
    ) -> Hits:
        """The passages nearest to `vector`, float32 (dim,), finite, in the index's own space."""
        return await self._start(asks.search_vector(vector, top_k, priority, collection), timeout)

    async def embed(
        self,
        texts: Iterable[str],
        kind: str = "query",
        *,
        timeout: float | None = None,
        priority: int = 0,
        collection: str = "default",
    ) -> NDArray[np.float32]:
        """float32 (n, dim): `texts` encoded as queries, or as passages. No texts: shape (0, 0)."""
        return await self._start(asks.embed(texts, kind, priority, collection), timeout)

    async def fetch(
        self, ids: Iterable[str], *, timeout: float | None = None, priority: int = 0, collection: str = "default"
    ) -> list[Passage]:
        """The passages with these ids, in their order. An id that no passage has is a `BadRequest` that names its position."""
        return await self._start(asks.fetch(ids, priority, collection), timeout)

    async def status(self, *, timeout: float | None = None, priority: int = 0, collection: str = "default") -> dict[str, Any]:
        """What `rag-broker status --json` prints."""
        return await self._start(asks.status(priority, collection), timeout)

    # ---- life -----------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """What is pending fails with `ClientClosed`, and so does every later call. May be called again."""
        self._closed = True
        link, self._link = self._link, None
        if link is not None and link.pid == os.getpid():
            link.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self._options.url, self._options.timeout, self._options.connect_timeout)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._options.url!r})"

    # ---- inside ---------------------------------------------------------------------------------------------------------

    def _start(self, ask: Ask[T], timeout: float | None) -> asyncio.Future[T]:
        seconds = self._options.timeout if timeout is None else asks.seconds(timeout, "timeout")
        link = self._live_link()
        future: asyncio.Future[T] = link.loop.create_future()
        call = Call(ask, link.loop.time() + seconds, future)
        future.add_done_callback(partial(_cancelled, link, call, self))
        link.begin(call)
        return future

    def _live_link(self) -> AsyncLink:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise ClientClosed("the client is closed")
        if self._link is not None and self._link.pid != os.getpid():
            INHERITED.append(self._link)
            self._link = None
        if self._link is None:
            self._link = AsyncLink(self._options, loop)
            weakref.finalize(self, abandon, self._link).atexit = False
        if self._link.loop is not loop:
            raise BadRequest("this AsyncClient belongs to another event loop; make one for each loop")
        return self._link


def _cancelled(link: AsyncLink, call: Call, client: AsyncClient, future: asyncio.Future[Any]) -> None:
    """A future ended; `client` is named here so that it lives until then."""
    if future.cancelled():
        link.cancel(call)


def _again(cls: type[AsyncClient], url: str, timeout: float, connect_timeout: float) -> AsyncClient:
    return cls(url, timeout=timeout, connect_timeout=connect_timeout)
