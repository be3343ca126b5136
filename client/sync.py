"""`Client`: the blocking client, safe to share between threads. It checks, hands over, and waits; the link does the rest."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ..wire.errors import ClientClosed
from . import asks
from .asks import DEFAULT_BROKER, Ask
from .calls import Call
from .future import RequestFuture
from .hit import Hits, Passage
from .link import INHERITED, Link

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

_lock = threading.Lock()
"""Held while a client looks for its link; one for all, so that a forked child can be given a fresh one."""


def _fresh_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fresh_lock)


class Client:
    """A client of the pool at `url` (None: RAGPOOL_BROKER, else tcp://127.0.0.1:5555).

    `timeout`: seconds within which every call is answered or raises `DeadlineExceeded`, unless the call says otherwise.
    `connect_timeout`: seconds after which a broker that never answered is `BrokerUnreachable`. Threads may share a client; a
    forked child and an unpickled copy connect anew at their next call. Futures of before a fork belong to the parent.
    Raises `BadRequest` for an address or a timeout that cannot be one; no connection is made before the first call.
    """

    def __init__(self, url: str | None = None, *, timeout: float = 60.0, connect_timeout: float = 2.0) -> None:
        self._options = asks.options(url, os.environ.get("RAGPOOL_BROKER") or DEFAULT_BROKER, timeout, connect_timeout)
        self._link: Link | None = None
        self._closed = False

    @property
    def url(self) -> str:
        return self._options.url

    # ---- requests -------------------------------------------------------------------------------------------------------

    def search(
        self,
        query: str,
        top_k: int | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        collection: str = "default",
    ) -> Hits:
        """The `top_k` passages nearest to `query`, best first (None: as many as the broker gives by default)."""
        return self._wait(asks.search(query, top_k, priority, collection), timeout)

    def search_many(
        self,
        queries: Iterable[str],
        top_k: int | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        collection: str = "default",
    ) -> list[Hits]:
        """`search` for any number of queries at once, in their order; `timeout` is that of the whole. Fails as a whole."""
        return self._wait(asks.search_many(queries, top_k, priority, collection), timeout)

    def submit(
        self,
        query: str,
        top_k: int | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        collection: str = "default",
    ) -> RequestFuture[Hits]:
        """`search` as a `concurrent.futures.Future`; its `cancel()` cancels in the broker."""
        return self._start(asks.search(query, top_k, priority, collection), timeout)

    def search_vector(
        self,
        vector: NDArray[np.float32],
        top_k: int | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        collection: str = "default",
    ) -> Hits:
        """The passages nearest to `vector`, float32 (dim,), finite, in the index's own space."""
        return self._wait(asks.search_vector(vector, top_k, priority, collection), timeout)

    def embed(
        self,
        texts: Iterable[str],
        kind: str = "query",
        *,
        timeout: float | None = None,
        priority: int = 0,
        collection: str = "default",
    ) -> NDArray[np.float32]:
        """float32 (n, dim): `texts` encoded as queries, or as passages. No texts: shape (0, 0)."""
        return self._wait(asks.embed(texts, kind, priority, collection), timeout)

    def fetch(
        self, ids: Iterable[str], *, timeout: float | None = None, priority: int = 0, collection: str = "default"
    ) -> list[Passage]:
        """The passages with these ids, in their order. An id that no passage has is a `BadRequest` that names its position."""
        return self._wait(asks.fetch(ids, priority, collection), timeout)

    def status(self, *, timeout: float | None = None, priority: int = 0, collection: str = "default") -> dict[str, Any]:
        """What `rag-broker status --json` prints."""
        return self._wait(asks.status(priority, collection), timeout)

    # ---- life -----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """What is pending fails with `ClientClosed`, and so does every later call. May be called again."""
        self._closed = True
        with _lock:
            link = self._link
        if link is not None:
            link.stop(wait=True)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self._options.url, self._options.timeout, self._options.connect_timeout)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._options.url!r})"

    # ---- inside ---------------------------------------------------------------------------------------------------------

    def _start(self, ask: Ask[T], timeout: float | None) -> RequestFuture[T]:
        seconds = self._options.timeout if timeout is None else asks.seconds(timeout, "timeout")
        future: RequestFuture[T] = RequestFuture(self)
        call = Call(ask, time.monotonic() + seconds, future)
        link = self._live_link()
        future.on_cancel(partial(link.cancel, call))
        link.begin(call)
        return future

    def _wait(self, ask: Ask[T], timeout: float | None) -> T:
        future = self._start(ask, timeout)
        try:
            # no timeout here: the session answers at the deadline, with the error that fits
            return future.result()
        except BaseException:  # KeyboardInterrupt among them: nobody waits any more
            future.cancel()
            raise
        finally:
            del future  # a raised error holds this frame; the frame must not hold the error

    def _live_link(self) -> Link:
        with _lock:
            if self._closed:
                raise ClientClosed("the client is closed")
            if self._link is None or not self._link.usable:
                if self._link is not None and self._link.inherited:
                    INHERITED.append(self._link)
                self._link = Link(self._options)
                weakref.finalize(self, self._link.stop).atexit = False
            return self._link


def _again(cls: type[Client], url: str, timeout: float, connect_timeout: float) -> Client:
    return cls(url, timeout=timeout, connect_timeout=connect_timeout)
