"""The edge of one `AsyncClient`: the event loop watches the socket, feeds the session, sets futures. No thread, no task.

It decides nothing. Only the event loop calls it, and it serves the process it was made in.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from random import Random

import zmq

from ..wire import multipart
from ..wire.errors import BrokerUnreachable, RemoteFailure
from .asks import Options
from .calls import Call, Calls, Done
from .session import Session
from .sockets import BYE_LINGER_MS, Dealer, close_dealer, open_dealer
from .states import OpenSocket

MESSAGES_A_TURN = 2000

INHERITED: list[AsyncLink] = []
"""Links that a fork copied. Kept for ever: freeing one would close what belongs to the parent."""


class AsyncLink:
    """One socket and one session on one event loop, which alone calls it."""

    def __init__(self, options: Options, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.pid = os.getpid()
        self._url = options.url
        session = Session(options.url, options.connect_timeout, Random(), f"python {self.pid}")
        self._calls = Calls(session, partial(os.urandom, 16))
        self._dealer: Dealer | None = None
        self._watched = -1
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, call: Call) -> None:
        self._calls.begin(call, self.loop.time())
        self._schedule()

    def cancel(self, call: Call) -> None:
        if not call.done:
            self._calls.cancel(call, self.loop.time())
            self._schedule()

    def close(self) -> None:
        """All that is pending fails. Does not wait."""
        self._calls.close(self.loop.time())
        self._perform(self.loop.time())
        if self._timer is not None:
            self._timer.cancel()
        self.close_socket(BYE_LINGER_MS)

    def _schedule(self) -> None:
        # once a turn of the loop, so that all that was submitted in it travels together
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        try:
            # what has arrived is received before any timer fires
            self._receive()
            now = self.loop.time()
            self._calls.handle_timer(now)
            self._perform(now)
            self._arm()
            # the descriptor tells of changes only: whatever is readable after this turn must bring the next by itself
            if self._dealer is not None and int(self._dealer.get(zmq.EVENTS)) & zmq.POLLIN:
                self._schedule()
        except Exception as error:  # a defect here must fail the calls, never leave them waiting
            self._calls.refuse(RemoteFailure(f"the client failed: {error!r}"), self.loop.time())
            self._perform(self.loop.time())

    def _receive(self) -> None:
        if self._dealer is None:
            return
        now = self.loop.time()
        for _ in range(MESSAGES_A_TURN):
            try:
                frames = multipart.receive(self._dealer)
            except zmq.Again:
                return
            self._calls.receive(frames, now)

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

    def _arm(self) -> None:
        at = self._calls.next_deadline()
        if self._timer is not None:
            if at is not None and self._timer.when() <= at and not self._timer.cancelled():
                return  # it rings early at worst, and is set anew then
            self._timer.cancel()
        self._timer = None if at is None else self.loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._turn()

    def _reopen(self) -> BrokerUnreachable | None:
        self.close_socket(0)
        try:
            self._dealer = open_dealer(self._url)
        except BrokerUnreachable as error:
            return error
        self._watched = self._dealer.fileno()
        self.loop.add_reader(self._watched, self._turn)
        return None

    def close_socket(self, linger_ms: int) -> None:
        dealer, self._dealer = self._dealer, None
        if dealer is not None:
            if not self.loop.is_closed():
                self.loop.remove_reader(self._watched)
            close_dealer(dealer, linger_ms)


def settle(call: Call) -> None:
    """Hand the answer of `call` to its future, and forget the future: no cycles for the collector."""
    future, call.owner = call.owner, None
    if future is None or future.done():
        return
    if call.error is not None:
        future.set_exception(call.error)
    else:
        future.set_result(call.result)


def abandon(link: AsyncLink) -> None:
    """Its client was collected without `close`, perhaps by a thread that is not the loop's, perhaps in a forked child."""
    if link.pid != os.getpid():
        INHERITED.append(link)
        return
    try:
        link.loop.call_soon_threadsafe(link.close)
    except RuntimeError:  # the loop is closed, and nobody can wait in it
        link.close_socket(0)
