"""What a session can be, what can happen to it, and what it tells its edge to do. Tables and records; nothing here acts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Union

from ..wire.errors import RagpoolError
from ..wire.messages import Reply
from ..wire.record import record


class State(Enum):
    IDLE = "idle"
    CONNECTING = "connecting"
    OPEN = "open"
    CLOSED = "closed"


class Event(Enum):
    WANTED = "wanted"  # there is something to send
    WELCOMED = "welcomed"
    LOST = "lost"  # a new broker, a silent one, or one that does not know us
    REFUSED = "refused"  # it does not speak with us
    CLOSED = "closed"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.IDLE, Event.WANTED): State.CONNECTING,
    (State.CONNECTING, Event.WELCOMED): State.OPEN,
    (State.CONNECTING, Event.LOST): State.CONNECTING,
    (State.OPEN, Event.LOST): State.CONNECTING,
    (State.IDLE, Event.REFUSED): State.IDLE,
    (State.CONNECTING, Event.REFUSED): State.IDLE,
    (State.OPEN, Event.REFUSED): State.IDLE,
    (State.IDLE, Event.CLOSED): State.CLOSED,
    (State.CONNECTING, Event.CLOSED): State.CLOSED,
    (State.OPEN, Event.CLOSED): State.CLOSED,
}
"""Every legal change of state. docs/protocol.md shows the same as a table."""


@record
class OpenSocket:
    """Close the socket there is, at once (LINGER 0), and connect a fresh one: it gets a routing id of its own."""


@record
class Send:
    frames: list[bytes]


@record
class Resolve:
    id: bytes
    reply: Reply


@record
class Fail:
    id: bytes
    error: RagpoolError


Command = Union[OpenSocket, Send, Resolve, Fail]


@dataclass(slots=True)
class Counts:
    """What was dropped, and how often the connection was made anew."""

    late_answers: int = 0
    malformed: int = 0
    retries: int = 0
    reconnects: int = 0
