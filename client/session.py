"""The session of one client with one broker: events in, commands out, time an argument. No socket, no clock, no thread.

Laws. Every request is answered exactly once, at its deadline at the latest; late and duplicate answers are counted and dropped.
A broker that never said WELCOME is `BrokerUnreachable` after `connect_timeout`; once it did, requests ride out every gap until
their own deadline. Both clients run on this one session.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from ..wire import codec, messages
from ..wire.errors import (
    AccessDenied,
    BrokerUnreachable,
    ClientClosed,
    DeadlineExceeded,
    Overloaded,
    ProtocolError,
    RagpoolError,
    RemoteFailure,
    VersionMismatch,
    error_from_code,
)
from ..wire.messages import TO_CLIENT, Failure, Reply
from .chunks import Chunk, wire_request
from .packing import ITEMS_MAX, packed
from .pending import Book, Pending, Stage
from .states import TRANSITIONS, Command, Counts, Event, Fail, OpenSocket, Resolve, Send, State

TICK_S = 1.0
"""How often a waiting session pings, and looks whether it heard anything."""

SILENT_TICKS = 3
"""Ticks in a row without a word after which the connection is taken for lost."""

RETRY_AFTER_S = (0.01, 30.0)
"""The shortest and the longest pause that a busy broker can ask for."""


class Session:
    """Events go in through `submit`, `cancel`, `receive`, `handle_timer`, `refuse`, `close`; `commands` says what follows."""

    def __init__(self, address: str, connect_timeout: float, rng: Random, name: str = "") -> None:
        self.state = State.IDLE
        self.counts = Counts()
        self._address = address
        self._connect_timeout = connect_timeout
        self._rng = rng
        self._name = name
        self._book = Book()
        self._out: list[Command] = []
        self._cancels: list[bytes] = []
        self._history: deque[str] = deque(maxlen=16)
        self._welcome: messages.Welcome | None = None
        self._silent = 0
        self._tick_at = math.inf
        self._on: dict[type[Any], Callable[[Any, float], None]] = {
            messages.Welcome: self._on_welcome,
            messages.Ping: self._on_epoch,
            messages.Pong: self._on_epoch,
            messages.Unknown: self._on_unknown,
            Reply: self._on_reply,
            Failure: self._on_failure,
            messages.Malformed: self._on_malformed,
        }

    # ---- events ---------------------------------------------------------------------------------------------------------

    def submit(self, identity: bytes, chunk: Chunk, deadline: float, now: float, behind: int = 0, pause_s: float = 0.0) -> None:
        """`deadline` is a clock reading; `behind`: chunks of the same call that go before this one; `pause_s`: how long it waits
        before it may be sent."""
        connect_by = math.inf if self._welcome else now + self._connect_timeout
        if self.state is State.CLOSED:
            self._out.append(Fail(identity, ClientClosed("the client is closed", request_id=identity.hex())))
            return
        if not self._book:
            self._silent, self._tick_at = 0, now + TICK_S
        self._book.add(identity, chunk, deadline, connect_by, behind, now + pause_s if pause_s else None)
        if self.state is State.IDLE:
            self._move(Event.WANTED)
            self._connect()

    def cancel(self, identity: bytes, now: float) -> None:
        """Nobody waits for this request any more: it is forgotten here and in the broker, without an answer."""
        self._drop(identity)

    def receive(self, frames: Sequence[bytes], now: float) -> None:
        """One message of the broker, whatever its bytes are."""
        if self.state is State.CLOSED:
            return
        if self.state is State.OPEN:
            self._silent = 0
        try:
            records = codec.decode(frames, TO_CLIENT)
        except VersionMismatch as error:
            self.refuse(error, now)
            return
        except ProtocolError:
            self.counts.malformed += 1
            return
        for record in records:
            self._on[type(record)](record, now)

    def handle_timer(self, now: float) -> None:
        """Whatever is due at `now`. Receive what has arrived first."""
        for pending in self._book.due(now):
            if self._welcome is None and now >= pending.connect_by <= pending.deadline:
                self._drop(pending.id)
                sentence = f"no broker answers at {self._address} within {self._connect_timeout:g} s"
                self._fail(pending.id, BrokerUnreachable(sentence))
            elif now >= pending.deadline:
                self._drop(pending.id)
                self._fail(pending.id, DeadlineExceeded(self._why_late()))
            elif pending.stage is Stage.BACKOFF and now >= pending.retry_at:
                self._book.wait_again(pending)
        if self._book and now >= self._tick_at:
            self._tick(now)

    def refuse(self, error: RagpoolError, now: float) -> None:
        """Nothing can come of this connection, for the reason `error`: all that is pending fails. The next request tries anew."""
        if self.state is not State.CLOSED:
            self._move(Event.REFUSED)
            self._cancels.clear()
            self._fail_all(error)

    def close(self, now: float) -> None:
        """Say BYE; all that is pending fails with `ClientClosed`, and so does what comes later."""
        if self.state is State.CLOSED:
            return
        if self.state is State.OPEN:
            self._out.append(Send(codec.encode(messages.Bye())))
        self._move(Event.CLOSED)
        self._fail_all(ClientClosed("the client was closed before the answer came"))

    def next_deadline(self) -> float | None:
        """When `handle_timer` wants to be called; None while nothing is pending."""
        due = self._book.next_due()
        return None if due is None else min(due, self._tick_at)

    # ---- commands -------------------------------------------------------------------------------------------------------

    def commands(self, now: float) -> list[Command]:
        """What is to be done, in order; all that was submitted in one turn travels together."""
        if self.state is State.OPEN:
            self._out += map(Send, packed([messages.Cancel(identity) for identity in self._cancels]))
            self._cancels.clear()
            requests = list(self._requests_to_send(now))
            self._out += map(Send, packed(requests))
        out, self._out = self._out, []
        return out

    def _requests_to_send(self, now: float) -> Iterator[messages.Request]:
        welcome = self._welcome or messages.Welcome("", "")
        while self._book.sent < max(1, welcome.window) and (pending := self._book.next_ready()) is not None:
            try:
                remaining_s = pending.deadline - now
                request = wire_request(pending.id, pending.chunk, welcome.limits, welcome.default_top_k, remaining_s)
            except RagpoolError as error:
                self._book.remove(pending.id)
                self._fail(pending.id, error)
                continue
            self._book.mark_sent(pending)
            yield request

    # ---- messages -------------------------------------------------------------------------------------------------------

    def _on_welcome(self, welcome: messages.Welcome, now: float) -> None:
        known = self._welcome
        if self.state is State.OPEN and known is not None and welcome.epoch != known.epoch:
            self._lose(now)
        elif self.state in (State.CONNECTING, State.OPEN):
            self._welcome = welcome
            self._silent = 0
            if self.state is State.CONNECTING:
                self._move(Event.WELCOMED)

    def _on_epoch(self, record: messages.Ping | messages.Pong, now: float) -> None:
        if self.state is State.OPEN and self._welcome is not None and record.epoch != self._welcome.epoch:
            self._lose(now)

    def _on_unknown(self, record: messages.Unknown, now: float) -> None:
        # several requests to a new broker bring several of these: while HELLO is on its way they say nothing new
        if self.state is State.OPEN:
            self._lose(now)

    def _on_reply(self, reply: Reply, now: float) -> None:
        if self._book.remove(reply.id) is None:
            self.counts.late_answers += 1
        else:
            self._out.append(Resolve(reply.id, reply))

    def _on_failure(self, failure: Failure, now: float) -> None:
        pending = self._book.get(failure.id)
        error = error_from_code(failure.code, failure.message, failure.id.hex(), failure.retry_after_ms / 1e3)
        if not failure.id:
            self._on_refusal(error, now)
        elif pending is None:
            self.counts.late_answers += 1
        elif isinstance(error, Overloaded):
            self._on_busy(pending, error, now)
        else:
            self._book.remove(failure.id)
            self._fail(failure.id, error)

    def _on_refusal(self, error: RagpoolError, now: float) -> None:
        """An error that names no request is about the session: fatal if it speaks of who we are, or answers our HELLO."""
        about_us = isinstance(error, (VersionMismatch, AccessDenied))
        if about_us or (self.state is State.CONNECTING and not error.retryable):
            self.refuse(error, now)
        else:
            self.counts.malformed += 1

    def _on_busy(self, pending: Pending, error: Overloaded, now: float) -> None:
        if pending.stage is not Stage.SENT:
            self.counts.late_answers += 1
            return
        shortest, longest = RETRY_AFTER_S
        retry_at = now + min(max(error.retry_after, shortest), longest) * self._rng.uniform(1.0, 1.5)
        if retry_at < pending.deadline:
            self.counts.retries += 1
            self._book.back_off(pending, retry_at)
        else:
            self._book.remove(pending.id)
            self._fail(pending.id, error)

    def _on_malformed(self, record: messages.Malformed, now: float) -> None:
        self.counts.malformed += 1
        if self._book.remove(record.id) is not None:
            self._fail(record.id, RemoteFailure(f"the answer is not of this protocol: {record.reason}"))

    # ---- the connection -------------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        self._tick_at = now + TICK_S
        self._silent += 1
        if self._silent >= SILENT_TICKS:
            self._lose(now)
        elif self.state is State.OPEN:
            self._out.append(Send(codec.encode(messages.Ping())))

    def _lose(self, now: float) -> None:
        self._move(Event.LOST)
        self.counts.reconnects += 1
        self._silent, self._tick_at = 0, now + TICK_S
        self._cancels.clear()
        for pending in self._book:
            if pending.stage is Stage.SENT:
                self._book.wait_again(pending)
        self._connect()

    def _connect(self) -> None:
        hello = messages.Hello(client=self._name, items_max=ITEMS_MAX)
        self._out += [OpenSocket(), Send(codec.encode(hello))]

    def _move(self, event: Event) -> None:
        target = TRANSITIONS.get((self.state, event))
        self._history.append(f"{self.state.value} --{event.value}")
        if target is None:
            raise RuntimeError(f"no such change of state; it went {', '.join(self._history)}")
        self.state = target

    # ---- answers --------------------------------------------------------------------------------------------------------

    def _drop(self, identity: bytes) -> None:
        pending = self._book.remove(identity)
        if pending is not None and pending.stage is Stage.SENT and self.state is State.OPEN:
            self._cancels.append(identity)

    def _fail(self, identity: bytes, error: RagpoolError) -> None:
        if error.request_id is None:
            error.request_id = identity.hex()
        self._out.append(Fail(identity, error))

    def _why_late(self) -> str:
        if self._welcome is None:
            return f"no answer within the timeout: no broker at {self._address} said a word"
        away = f": the broker at {self._address} is away" if self.state is State.CONNECTING else ""
        return f"no answer within the timeout{away}"

    def _fail_all(self, error: RagpoolError) -> None:
        for pending in self._book:
            self._book.remove(pending.id)
            self._fail(pending.id, error_from_code(error.code, error.message, pending.id.hex()))

    def check(self) -> None:
        """Raise `RuntimeError` where a law is broken: for tests, after every step."""
        self._book.check()
        if self._book and self.state in (State.IDLE, State.CLOSED):
            raise RuntimeError(f"{len(self._book)} requests are pending in a session that is {self.state.value}")
        if self._book.sent and self.state is not State.OPEN:
            raise RuntimeError("a request counts as sent without a session")
