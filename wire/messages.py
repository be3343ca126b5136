"""The records that travel on the wire, and who may send which. Frozen, typed, and without behaviour.

docs/protocol.md is the specification; the codec turns these into frames and back. Times are remaining milliseconds, never
a clock reading: two hosts share no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Union

from .record import record

TIMINGS_MAX = 32
PROTOCOL_VERSION = 1
ID_BYTES = 16
"""A request id is 16 random bytes, chosen by the client."""

EMPTY_BODY = b"\x80"
"""An empty MessagePack map."""

SEARCH = "search"
SEARCH_VECTOR = "search_vector"
EMBED = "embed"
FETCH = "fetch"
STATUS = "status"
WORKER_OPS = frozenset({SEARCH, SEARCH_VECTOR, EMBED, FETCH})
"""Operations that a worker runs; `status` the broker answers by itself."""


@record
class Limits:
    """What the broker accepts, told in WELCOME. A client raises `TooLarge` itself, before it sends."""

    frame_max_bytes: int = 8 * 1024 * 1024
    queries_max: int = 4096
    query_max_bytes: int = 32 * 1024
    top_k_max: int = 1000


# ---- sessions ------------------------------------------------------------------------------------------------------


@record
class Hello:
    """A client opens a session. `items_max`: how many items it takes in one message; 1 unless it says more."""

    client: str = ""
    items_max: int = 1


@record
class Welcome:
    """The broker opens a session. A new `epoch` means another incarnation of the broker: what was pending is unknown to it."""

    epoch: str
    server: str
    limits: Limits = Limits()
    default_timeout_ms: int = 60_000
    default_top_k: int = 5
    window: int = 64
    """Requests that one session may have unanswered at a time; more are refused as overloaded."""


@record
class Ping:
    """Are you there? The broker's own carries its epoch."""

    epoch: str = ""


@record
class Pong:
    epoch: str


@record
class Unknown:
    """The broker does not know this peer: say HELLO or REGISTER (again)."""


@record
class Bye:
    """This peer leaves; nothing more will come from it."""


# ---- requests ------------------------------------------------------------------------------------------------------


@record
class Request:
    """One unit of work. The broker reads everything but `body`."""

    id: bytes
    op: str
    items: int = 1
    """Queries, vectors, texts or ids in the body."""
    top_k: int = 0
    """Hits wanted a query; 0 for operations that return none."""
    remaining_ms: int = 60_000
    priority: int = 0
    collection: str = "default"
    body: bytes = EMPTY_BODY


@record
class Reply:
    """The answer to one request. `cost` is the true one, in tokens; `truncated` lists positions of cut queries.

    At most `TIMINGS_MAX` timings, of which the broker adds one.
    """

    id: bytes
    cost: int = 0
    index_version: str = ""
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    truncated: tuple[int, ...] = ()
    body: bytes = EMPTY_BODY


@record
class Failure:
    """A request that failed, as `code` of the error tree and one sentence. An empty id answers a message that had none."""

    id: bytes
    code: str
    message: str
    retry_after_ms: int = 0


@record
class Cancel:
    """Nobody waits for this request any more."""

    id: bytes


# ---- workers -------------------------------------------------------------------------------------------------------


@record
class Gone:
    """This incarnation ended. `blame`: it ended by itself; `running`: what it ran at that moment. A parent tells its own broker;
    of other hosts it rides in the registration of the worker that follows."""

    incarnation: str
    reason: str
    blame: bool = True
    running: tuple[bytes, ...] = ()


@record
class Register:
    """A worker joins, or joins again. `running` lists the requests that it still holds, `max_batch` the items it likes best,
    `items_max` how many requests it takes in one message, `previous` how those before it in its slot ended, newest first.

    While `state` is "loading" the fields that only a loaded model knows are empty.
    """

    incarnation: str
    state: str
    host: str = ""
    pid: int = 0
    slot: int = -1
    device: str = ""
    model: str = ""
    backend: str = ""
    dtype: str = ""
    engine: str = ""
    index: str = ""
    index_version: str = ""
    collection: str = "default"
    max_batch: int = 1
    items_max: int = 1
    running: tuple[bytes, ...] = ()
    previous: tuple[Gone, ...] = ()


@record
class Heartbeat:
    """A worker lives. `received` counts the requests it got in this session, `holding` lists those it has not answered,
    `batch_age_ms` is the age of its oldest running batch (0: idle), stamped by the thread that runs it."""

    state: str
    received: int = 0
    batch_age_ms: int = 0
    holding: tuple[bytes, ...] = ()


@record
class Drain:
    """Finish what you hold, then exit: for good, or (`again`) to be started again, uncounted."""

    again: bool = False


# ---- the channel between parent and broker -------------------------------------------------------------------------


@record
class SlotBrief:
    """What the broker needs to know of a slot: whether capacity may come, and when (`wait_s` from now)."""

    slot: int
    device: str
    state: str
    incarnation: str = ""
    wait_s: float = 0.0


@record
class Rollout:
    """The parent's last reload of the index, or restart of all workers. `ticket`: of the command that asked for it. `kind`:
    reload or restart; `state`: loading, replacing, done or failed, "" where there was none; `told`: one sentence. `index`: the
    folder; `before`, `after`: versions of it, "" while unknown."""

    ticket: str = ""
    kind: str = ""
    state: str = ""
    told: str = ""
    replaced: int = 0
    index: str = ""
    before: str = ""
    after: str = ""


@record
class Slots:
    """Parent to broker: all slots as they are now; a number that comes twice has two processes, of which the first serves.
    `trouble`: what the parent cannot do, such as write to a full disk."""

    slots: tuple[SlotBrief, ...] = ()
    trouble: str = ""
    rollout: Rollout = Rollout()


@record
class Serving:
    """Broker to parent: the sockets are bound."""

    frontend: str
    backend: str


@record
class Drained:
    """Broker to parent: draining, and nothing is pending any more."""


@record
class Control:
    """Broker to parent: an operator's command ("stop", ...) with its argument. `ticket`: by which its outcome is found again."""

    command: str
    argument: str = ""
    ticket: str = ""


# ---- the admin socket ----------------------------------------------------------------------------------------------


@record
class AdminRequest:
    id: bytes
    command: str
    argument: str = ""


@record
class AdminReply:
    id: bytes
    body: bytes = EMPTY_BODY


@record
class Malformed:
    """Never sent: what the codec makes of one bad item, so that its neighbours in the message are served."""

    id: bytes
    reason: str


Record = Union[
    Hello, Welcome, Ping, Pong, Unknown, Bye, Request, Reply, Failure, Cancel, Register, Heartbeat, Drain,
    Slots, Gone, Serving, Drained, Control, AdminRequest, AdminReply,
]  # fmt: skip

Decoded = Union[Record, Malformed]

KINDS: dict[bytes, type[Any]] = {
    b"HELLO": Hello, b"WELCOME": Welcome, b"PING": Ping, b"PONG": Pong, b"UNKNOWN": Unknown, b"BYE": Bye,
    b"REQUEST": Request, b"REPLY": Reply, b"ERROR": Failure, b"CANCEL": Cancel,
    b"REGISTER": Register, b"HEARTBEAT": Heartbeat, b"DRAIN": Drain,
    b"SLOTS": Slots, b"GONE": Gone, b"SERVING": Serving, b"DRAINED": Drained, b"CONTROL": Control,
    b"ADMIN": AdminRequest, b"ADMIN-REPLY": AdminReply,
}  # fmt: skip
"""The kind frame of each record."""

FROM_CLIENT = frozenset({b"HELLO", b"PING", b"REQUEST", b"CANCEL", b"BYE"})
TO_CLIENT = frozenset({b"WELCOME", b"PING", b"PONG", b"UNKNOWN", b"REPLY", b"ERROR"})
FROM_WORKER = frozenset({b"REGISTER", b"HEARTBEAT", b"REPLY", b"ERROR", b"BYE"})
TO_WORKER = frozenset({b"WELCOME", b"PING", b"UNKNOWN", b"REQUEST", b"DRAIN"})
FROM_ADMIN = frozenset({b"ADMIN"})
TO_ADMIN = frozenset({b"ADMIN-REPLY", b"ERROR"})
FROM_PARENT = frozenset({b"SLOTS", b"GONE", b"DRAIN", b"PING"})
TO_PARENT = frozenset({b"SERVING", b"DRAINED", b"CONTROL", b"PONG"})
TO_SUCCESSOR = frozenset({b"GONE"})
"""What a supervisor tells a worker about those before it."""
