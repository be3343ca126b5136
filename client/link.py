"""The I/O thread of one `Client`: it owns the socket, feeds the session, and sets futures. It decides nothing.

Callers leave calls in an inbox and wake it; no other thread ever touches the socket. A link serves the process it was made in.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import threading
import time
import weakref
from collections import deque
from random import Random

import zmq

from ..wire import multipart
from ..wire.errors import BrokerUnreachable, ClientClosed, RemoteFailure
from .asks import Options
from .calls import Call, Calls, Done
from .future import settle, settle_cancelled
from .session import Session
from .sockets import BYE_LINGER_MS, Dealer, close_dealer, open_dealer
from .states import OpenSocket

MESSAGES_A_TURN = 2000
JOIN_S = 2.0
"""How long a closing client waits for its thread."""

INHERITED: list[Link] = []
"""Links that a fork copied. Kept for ever: freeing one would close what belongs to the parent."""

_links: weakref.WeakSet[Link] = weakref.WeakSet()


class Link:
    """Starts its thread at once. `begin` and `cancel` may be called from any thread, `stop` also by the garbage collector."""

    def __init__(self, options: Options) -> None:
        self.pid = os.getpid()
        self._url = options.url
        self._calls = Calls(Session(options.url, options.connect_timeout, Random(), f"python {self.pid}"), _new_id)
        self._inbox: deque[tuple[Call, bool]] = deque()
        self._stopping = False
        self._ended = False
        self._woken = False
        # reentrant: the collector may call `stop` in a thread that is inside `_wake`
        self._wake_lock = threading.RLock()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._poller = zmq.Poller()
        self._poller.register(self._wake_out.fileno(), zmq.POLLIN)
        self._dealer: Dealer | None = None
        self._thread = threading.Thread(target=self._run, name="ragpool-client", daemon=True)
        _links.add(self)
        self._thread.start()

    @property
    def inherited(self) -> bool:
        """Whether this is only a copy, in a forked child, of a link of its parent."""
        return self.pid != os.getpid()

    @property
    def usable(self) -> bool:
        """Whether it serves this process and has not ended."""
        return not self._ended and not self.inherited

    def begin(self, call: Call) -> None:
        self._post(call, True)

    def cancel(self, call: Call) -> None:
        self._post(call, False)

    def stop(self, wait: bool = False) -> None:
        """All that is pending fails with `ClientClosed`. In a forked child: nothing."""
        if self.inherited:
            return
        self._stopping = True
        self._wake()
        if wait and self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(JOIN_S)

    def _post(self, call: Call, begins: bool) -> None:
        if self.inherited:
            return
        self._inbox.append((call, begins))
        if self._ended:
            self._turn_away()
        else:
            self._wake()

    def _wake(self) -> None:
        with self._wake_lock:
            if self._woken or self._ended:
                return
            self._woken = True
            with contextlib.suppress(OSError):
                self._wake_in.send(b"\0")

    # ---- the thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
            self._calls.close(time.monotonic())
            self._perform(time.monotonic())
        except Exception as error:  # a defect here must fail the calls, never leave them waiting
            self._calls.refuse(RemoteFailure(f"the client's I/O thread failed: {error!r}"), time.monotonic())
            self._perform(time.monotonic())
        finally:
            self._end()

    def _turn(self) -> None:
        self._poller.poll(self._wait_ms())
        self._woken = False
        with contextlib.suppress(BlockingIOError):
            self._wake_out.recv(64)
        # what has arrived is received before any timer fires
        self._receive()
        now = time.monotonic()
        self._take_inbox(now)
        self._calls.handle_timer(now)
        self._perform(now)

    def _wait_ms(self) -> int | None:
        if self._inbox or self._stopping:
            return 0
        at = self._calls.next_deadline()
        # whole milliseconds, rounded up, or the last fraction of each wait would be spent spinning
        return None if at is None else min(max(0, int((at - time.monotonic()) * 1e3 + 0.999)), 60_000)

    def _receive(self) -> None:
        if self._dealer is None:
            return
        now = time.monotonic()
        for _ in range(MESSAGES_A_TURN):
            try:
                frames = multipart.receive(self._dealer)
            except zmq.Again:
                return
            self._calls.receive(frames, now)

    def _take_inbox(self, now: float) -> None:
        while self._inbox:
            call, begins = self._inbox.popleft()
            if begins:
                self._calls.begin(call, now)
            else:
                self._calls.cancel(call, now)
                settle_cancelled(call)

    def _perform(self, now: float) -> None:
        refusal: BrokerUnreachable | None = None
        for effect in self._calls.effects(now):
            if isinstance(effect, Done):
                settle(effect.call)
            elif isinstance(effect, OpenSocket):
                refusal = self._reopen()
            elif self._dealer is not None:
                multipart.send(self._dealer, effect.frames)
        if refusal is not None:
            self._calls.refuse(refusal, now)
            self._perform(now)

    def _reopen(self) -> BrokerUnreachable | None:
        self._close_socket(0)
        try:
            self._dealer = open_dealer(self._url)
        except BrokerUnreachable as error:
            return error
        self._poller.register(self._dealer, zmq.POLLIN)
        return None

    def _close_socket(self, linger_ms: int) -> None:
        dealer, self._dealer = self._dealer, None
        if dealer is not None:
            self._poller.unregister(dealer)
            close_dealer(dealer, linger_ms)

    def _end(self) -> None:
        with self._wake_lock:
            self._ended = True
            self._close_socket(BYE_LINGER_MS)
            self._wake_in.close()
            self._wake_out.close()
        self._turn_away()

    def _turn_away(self) -> None:
        """Nobody reads the inbox any more; whoever finds a call in it answers it."""
        while self._inbox:
            try:
                call, begins = self._inbox.popleft()
            except IndexError:  # another thread was faster
                return
            if begins:
                call.fail(ClientClosed("the client is closed"))
                settle(call)


def _new_id() -> bytes:
    return os.urandom(16)


@atexit.register
def _stop_all() -> None:
    """No thread of ours is inside ZeroMQ while the interpreter is taken down."""
    links = [link for link in _links if link.usable]
    for link in links:
        link.stop()
    for link in links:
        link.stop(wait=True)
