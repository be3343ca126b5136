"""A worker's side of its link to the broker: records and times in, commands out. No socket, no clock, no model.

A session is one socket: a fresh one is opened, and REGISTER said again, when the broker does not know us, has another epoch, or
was silent for `SILENCE_MAX_S`. What we hold goes on being computed meanwhile; answers wait for the next WELCOME.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Union

from ..wire import exit_codes, messages
from ..wire.messages import Decoded, Drain, Failure, Heartbeat, Limits, Record, Register, Reply, Request
from ..wire.record import record

LOADING = "loading"
READY = "ready"
DRAINING = "draining"

SILENCE_MAX_S = 3.0
"""The broker pings us each 0.2 s; after this long without a word the socket is replaced."""

UNEASY_S = 0.6
"""After this long without a word heartbeats go out faster, so that a new broker learns of us at once."""

UNEASY_INTERVAL_S = 0.2
REGISTER_INTERVAL_S = 1.0

FAREWELL_S = 2.0
"""How long a drained worker waits for a broker that does not confirm before it leaves all the same."""


@record
class OpenSocket:
    """Close the socket there is, without lingering, and connect a fresh one."""


@record
class Send:
    """One message with these records, all of one kind."""

    records: tuple[Record, ...]


@record
class Run:
    """Requests to work on; they are ours until `answered`."""

    requests: tuple[Request, ...]
    limits: Limits


@record
class Exit:
    """Leave with this code. `sentence` is for the operator, empty where all is well."""

    code: int
    sentence: str = ""


Command = Union[OpenSocket, Send, Run, Exit]
Answer = Union[Reply, Failure]


class Session:
    def __init__(self, info: Register, heartbeat_interval_s: float, now: float) -> None:
        self._info = info
        self._interval = heartbeat_interval_s
        self._state = info.state
        self._registered_as = ""
        self._limits = Limits()
        self._registered = False
        self._epoch = ""
        self._received = 0
        self._holding: dict[bytes, None] = {}
        self._unsent: list[Answer] = []
        self._heard = now
        self._next_beat = now
        self._exit_code = exit_codes.DRAINED
        self._released = False
        self._leave_at: float | None = None
        self._left = False

    @property
    def holding(self) -> tuple[bytes, ...]:
        """Requests that we have and did not answer yet, or whose answers wait for a WELCOME."""
        return tuple(self._holding)

    # ---- what happens on our side ----------------------------------------------------------------------------------

    def start(self, now: float) -> list[Command]:
        return self._reconnect(now)

    def loaded(self, info: Register, now: float) -> list[Command]:
        """The model is loaded and its warm-up query came back; `info` says what we are."""
        self._info = info
        if self._state == LOADING:
            self._state = READY
        return [Send((self._registration(),))] if self._registered else []

    def answered(self, answers: Sequence[Answer], now: float) -> list[Command]:
        """These are done: they go out, at once or behind the next WELCOME."""
        self._unsent += answers
        return [*self._flush(), *self._maybe_leave(now)]

    def drain(self, now: float) -> list[Command]:
        """Finish what we hold and leave; the broker is told, and says when nothing more will come."""
        if self._state != DRAINING:
            self._state = DRAINING
            self._leave_at = now + FAREWELL_S
            self._next_beat = now
        return self._maybe_leave(now)

    # ---- what the broker says --------------------------------------------------------------------------------------

    def receive(self, record: Decoded, now: float) -> list[Command]:
        self._heard = now
        if isinstance(record, messages.Welcome):
            return self._welcome(record, now)
        if isinstance(record, messages.Unknown):
            return self._reconnect(now)
        if isinstance(record, messages.Ping):
            return self._reconnect(now) if self._registered and record.epoch != self._epoch else []
        if isinstance(record, Drain):
            self._released = True
            if self._state != DRAINING:
                self._exit_code = exit_codes.AGAIN if record.again else exit_codes.DISMISSED
            return self.drain(now)
        if isinstance(record, Failure) and not record.id and not self._registered:
            return [Exit(exit_codes.CONFIGURATION, f"the broker refuses this worker: {record.message}")]
        return []

    def receive_requests(self, requests: Sequence[Request], now: float) -> list[Command]:
        """All the requests of one message."""
        self._heard = now
        self._received += len(requests)
        fresh = tuple(request for request in requests if request.id not in self._holding)
        for request in fresh:
            self._holding[request.id] = None
        return [Run(fresh, self._limits)] if fresh else []

    def refuse(self, request_id: bytes, reason: str, now: float) -> list[Command]:
        """One item of a message could not be read: it counts as received, and is answered so."""
        self._heard = now
        self._received += 1
        if not request_id:
            return []
        self._holding[request_id] = None
        return self.answered([Failure(request_id, "protocol_error", reason)], now)

    def _welcome(self, welcome: messages.Welcome, now: float) -> list[Command]:
        self._registered = True
        self._epoch = welcome.epoch
        self._limits = welcome.limits
        behind = [Send((self._registration(),))] if self._state == READY and self._registered_as != READY else []
        return [*behind, *self._flush()]

    # ---- time ------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        silence_ends = self._heard + SILENCE_MAX_S
        leave = self._leave_at if self._leave_at is not None else silence_ends
        return min(self._next_beat, silence_ends, leave)

    def handle_timer(self, batch_age_ms: int, now: float) -> list[Command]:
        """Heartbeats, a broker that fell silent, and the end of a drain nobody confirms."""
        if self._leave_at is not None and now >= self._leave_at:
            self._released = True
            self._leave_at = None
        if leaving := self._maybe_leave(now):
            return leaving
        if now >= self._heard + SILENCE_MAX_S:
            return self._reconnect(now)
        return [self._beat(batch_age_ms, now)] if now >= self._next_beat else []

    def _beat(self, batch_age_ms: int, now: float) -> Command:
        if not self._registered:
            self._next_beat = now + REGISTER_INTERVAL_S
            return Send((self._registration(),))
        uneasy = now - self._heard > UNEASY_S
        self._next_beat = now + (UNEASY_INTERVAL_S if uneasy else min(self._interval, UNEASY_S))
        return Send((Heartbeat(self._state, self._received, batch_age_ms, self.holding),))

    # ---- steps -----------------------------------------------------------------------------------------------------

    def _reconnect(self, now: float) -> list[Command]:
        self._registered = False
        self._received = 0
        self._heard = now
        self._next_beat = now + REGISTER_INTERVAL_S
        return [OpenSocket(), Send((self._registration(),))]

    def _registration(self) -> Register:
        self._registered_as = self._state
        return replace(self._info, state=self._state, running=self.holding)

    def _flush(self) -> list[Command]:
        """Answers that may go out now, replies and failures in a message each."""
        if not self._registered or not self._unsent:
            return []
        replies = tuple(answer for answer in self._unsent if isinstance(answer, Reply))
        failures = tuple(answer for answer in self._unsent if isinstance(answer, Failure))
        for answer in self._unsent:
            self._holding.pop(answer.id, None)
        self._unsent = []
        return [Send(records) for records in (replies, failures) if records]

    def _maybe_leave(self, now: float) -> list[Command]:
        if self._state != DRAINING or not self._released or self._left:
            return []
        if self._holding and self._registered:
            return []
        self._left = True
        return [Send((messages.Bye(),)), Exit(self._exit_code)]
