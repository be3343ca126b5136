"""The parent's end of the channel to one incarnation of the broker: a SOCK_SEQPACKET pair carrying small wire records.

Never blocks. What cannot be sent yet waits in a bounded outbox: a snapshot of the slots replaces an older one, ends are
kept. A broker that sends what is not a record gets `ChannelBroken`; what becomes of it is not decided here.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import Union

from ..wire import codec
from ..wire.errors import BadRequest, VersionMismatch
from ..wire.messages import FROM_PARENT, TO_PARENT, Control, Drain, Drained, Gone, Malformed, Ping, Pong, Serving, Slots

FromBroker = Union[Serving, Drained, Control, Pong]
ToBroker = Union[Slots, Gone, Drain, Ping]

GONE_MAX = 1024
"""Ends that wait to be told; beyond that the oldest are dropped, whose requests the broker finds by silence."""
RECORD_MAX_BYTES = 256 * 1024
_RECORDS_AT_ONCE = 64

__all__ = ["FROM_PARENT", "GONE_MAX", "RECORD_MAX_BYTES", "Channel", "ChannelBroken"]


class ChannelBroken(Exception):
    """The broker broke the channel's rules; the message says how."""


class Channel:
    """`broker_end` is for the child; close it here (`close_broker_end`) once the child has it."""

    def __init__(self) -> None:
        self._socket, self._broker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._socket, self._broker_end):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * RECORD_MAX_BYTES)
        self._socket.setblocking(False)
        self._gone: deque[Gone] = deque()
        self._slots: Slots | None = None
        self._drain: Drain | None = None
        self._ping: Ping | None = None
        self.dropped = 0
        """Ends that the bound of the outbox cost."""

    def fileno(self) -> int:
        """-1 once closed."""
        return self._socket.fileno()

    def broker_fileno(self) -> int:
        return self._broker_end.fileno()

    def close_broker_end(self) -> None:
        self._broker_end.close()

    def close(self) -> None:
        self._socket.close()
        self._broker_end.close()

    @property
    def unsent(self) -> bool:
        return bool(self._gone or self._slots or self._drain or self._ping)

    def put(self, record: ToBroker) -> None:
        """Queue a record and send what goes. Ends travel before the snapshot that follows from them, then a drain, then
        a question whether anybody is there."""
        if isinstance(record, Gone):
            self._gone.append(record)
            if len(self._gone) > GONE_MAX:
                self._gone.popleft()
                self.dropped += 1
        elif isinstance(record, Slots):
            self._slots = record
        elif isinstance(record, Ping):
            self._ping = record
        else:
            self._drain = record
        self.flush()

    def flush(self) -> None:
        """Send while the socket takes it. A broker that is gone takes nothing; its end is reported elsewhere."""
        while self._gone and self._send(self._gone[0]):
            self._gone.popleft()
        if not self._gone and self._slots is not None and self._send(self._slots):
            self._slots = None
        if not self._gone and self._slots is None and self._drain is not None and self._send(self._drain):
            self._drain = None
        if self._ping is not None and not (self._gone or self._slots or self._drain) and self._send(self._ping):
            self._ping = None

    def _send(self, record: ToBroker) -> bool:
        """False: later."""
        try:
            self._socket.send(codec.encode_datagram(record), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def receive(self) -> tuple[list[FromBroker], bool]:
        """(records that have arrived, whether the broker closed its end). Raises `ChannelBroken`."""
        records: list[FromBroker] = []
        while len(records) < _RECORDS_AT_ONCE:
            try:
                data, _, flags, _ = self._socket.recvmsg(RECORD_MAX_BYTES)
            except BlockingIOError:
                return records, False
            except OSError:
                return records, True
            if not data:
                return records, True
            if flags & socket.MSG_TRUNC:
                raise ChannelBroken(f"a record has more than {RECORD_MAX_BYTES} bytes")
            records.append(_decode(data))
        return records, False


def _decode(data: bytes) -> FromBroker:
    try:
        record = codec.decode_datagram(data, TO_PARENT)
    except (BadRequest, VersionMismatch) as error:
        raise ChannelBroken(str(error)) from None
    if isinstance(record, Malformed):
        raise ChannelBroken(record.reason)
    if not isinstance(record, Serving | Drained | Control | Pong):
        raise ChannelBroken(f"{type(record).__name__} is not for the parent")
    return record
