"""The broker's edge: it receives, feeds the core, performs the commands and re-arms the timer. It decides nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import zmq

from ..wire import codec, multipart
from ..wire.codec import ITEMS_MAX
from ..wire.errors import ProtocolError, RagpoolError, VersionMismatch
from ..wire.messages import (
    FROM_ADMIN,
    FROM_CLIENT,
    FROM_PARENT,
    FROM_WORKER,
    AdminReply,
    AdminRequest,
    Failure,
    Malformed,
    Record,
    Reply,
    Serving,
)
from .commands import CLIENT, PARENT, WORKER, AnswerStatus, Command, Dispatch, ToClient, ToParent, ToWorker, failure_of
from .core import Core
from .operator import obey, roll
from .outbox import RETRY_S, Outbox
from .sockets import Sockets
from .status import StatusReport

BURST = 200
"""Messages taken from one socket before the others, and the timer, get their turn."""

PEER_MAX_BYTES = 64 * 1024 * 1024
"""Bytes that wait for one slow peer before more are dropped."""


class Server:
    """`channel` is the parent's end of nothing but this process; without one the broker stands alone."""

    def __init__(self, core: Core, sockets: Sockets, report: StatusReport, channel: socket.socket | None) -> None:
        self._core = core
        self._sockets = sockets
        self._report = report
        self._channel = channel
        self._front = Outbox(sockets.front, PEER_MAX_BYTES)
        self._back = Outbox(sockets.back, PEER_MAX_BYTES)
        self._poller = zmq.Poller()
        self._commands: list[Command] = []
        self._running = True
        self._takers = ((sockets.front, self._from_client), (sockets.back, self._from_worker), (sockets.admin, self._from_admin))
        for router, _ in self._takers:
            self._poller.register(router, zmq.POLLIN)
        if channel is not None:
            self._poller.register(channel.fileno(), zmq.POLLIN)

    def serve(self, frontend: str, backend: str) -> None:
        """Until `stop`, or until the parent closes the channel."""
        self._to_parent(Serving(frontend, backend))
        while self._running:
            self._turn()

    def stop(self) -> None:
        """After this turn. Safe to call from a signal handler."""
        self._running = False

    def _turn(self) -> None:
        wait_s = self._core.next_deadline() - time.monotonic()
        if self._front or self._back:
            wait_s = min(wait_s, RETRY_S)
        # poll takes whole milliseconds: rounded up, or the last fraction of each wait would be spent spinning
        ready = dict(self._poller.poll(max(0, int(wait_s * 1e3 + 0.999))))
        for router, take in self._takers:
            if router in ready:
                self._receive(router, take)
        if self._channel is not None and self._channel.fileno() in ready:
            self._receive_from_parent(self._channel)
        now = time.monotonic()
        for source, outbox in ((CLIENT, self._front), (WORKER, self._back)):
            for peer in outbox.retry():
                self._commands += self._core.lost(source, peer, now)
        self._perform(now)
        self._commands += self._core.handle_timer(now)
        self._commands += roll(self._core, self._channel is not None, now)
        self._perform(now)

    # ---- receiving -------------------------------------------------------------------------------------------------

    def _receive(self, router: zmq.Socket[bytes], take: Callable[[list[bytes], float], None]) -> None:
        now = time.monotonic()
        for _ in range(BURST):
            try:
                frames = multipart.receive(router)
            except zmq.Again:
                return
            take(frames, now)

    def _from_client(self, frames: list[bytes], now: float) -> None:
        try:
            records = codec.decode(frames[1:], FROM_CLIENT)
        except (ProtocolError, VersionMismatch) as error:
            self._to_client(frames[0], [Failure(b"", error.code, error.message)], now)
            return
        for record in records:
            self._commands += self._core.receive(CLIENT, frames[0], record, now)

    def _from_worker(self, frames: list[bytes], now: float) -> None:
        try:
            records = codec.decode(frames[1:], FROM_WORKER)
        except (ProtocolError, VersionMismatch) as error:
            self._to_worker(frames[0], codec.encode(Failure(b"", error.code, error.message)), now)
            return
        for record in records:
            self._commands += self._core.receive(WORKER, frames[0], record, now)

    def _from_admin(self, frames: list[bytes], now: float) -> None:
        try:
            records = codec.decode(frames[1:], FROM_ADMIN)
        except (ProtocolError, VersionMismatch) as error:
            self._answer_admin(frames[0], Failure(b"", error.code, error.message))
            return
        for record in records:
            if isinstance(record, AdminRequest):
                self._answer_admin(frames[0], self._administer(record, now))
            elif isinstance(record, Malformed):
                self._answer_admin(frames[0], Failure(record.id, ProtocolError.code, record.reason))

    def _administer(self, request: AdminRequest, now: float) -> AdminReply | Failure:
        if request.command == "status":
            return AdminReply(request.id, self._status(now))
        try:
            ticket = request.id.hex()
            self._commands += obey(self._core, request.command, request.argument, self._channel is not None, now, ticket)
        except RagpoolError as error:
            return failure_of(request.id, error)
        return AdminReply(request.id, codec.pack({"ticket": ticket}))

    def _receive_from_parent(self, channel: socket.socket) -> None:
        for _ in range(BURST):
            try:
                datagram = channel.recv(1 << 20, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                datagram = b""
            if not datagram:
                self._running = False
                return
            record = codec.decode_datagram(datagram, FROM_PARENT)
            self._commands += self._core.receive(PARENT, b"", record, time.monotonic())

    # ---- performing ------------------------------------------------------------------------------------------------

    def _perform(self, now: float) -> None:
        """Do what the core said, until it says nothing more: a peer found gone on the way is told to it."""
        while self._commands:
            commands, self._commands = self._commands, []
            answers: dict[tuple[bytes, type[Record]], list[Record]] = {}
            for command in commands:
                if isinstance(command, ToClient):
                    answers.setdefault((command.peer, type(command.record)), []).append(command.record)
                elif isinstance(command, Dispatch):
                    self._to_worker(command.peer, codec.encode_many(command.requests), now)
                elif isinstance(command, ToWorker):
                    self._to_worker(command.peer, codec.encode(command.record), now)
                elif isinstance(command, AnswerStatus):
                    self._to_client(command.peer, [Reply(command.request_id, body=self._status(now))], now)
                elif isinstance(command, ToParent):
                    self._to_parent(command.record)
            for (peer, _), records in answers.items():
                self._to_client(peer, records, now)

    def _status(self, now: float) -> bytes:
        dropped = self._front.dropped + self._back.dropped
        return codec.pack(self._report.status(self._core, dropped, now))

    def _to_client(self, peer: bytes, records: list[Record], now: float) -> None:
        """As few messages as the client can take."""
        client = self._core.clients.at(peer)
        most = min(client.items_max, ITEMS_MAX) if client is not None else 1
        for start in range(0, len(records), most):
            if not self._front.send(peer, codec.encode_many(records[start : start + most])):
                self._commands += self._core.lost(CLIENT, peer, now)
                return

    def _to_worker(self, peer: bytes, frames: list[bytes], now: float) -> None:
        if not self._back.send(peer, frames):
            self._commands += self._core.lost(WORKER, peer, now)

    def _answer_admin(self, peer: bytes, record: AdminReply | Failure) -> None:
        try:
            multipart.send(self._sockets.admin, [peer, *codec.encode(record)])
        except zmq.ZMQError:
            return  # whoever asked is gone, or does not read: nothing waits for an operator's terminal

    def _to_parent(self, record: Record) -> None:
        if self._channel is not None:
            self._channel.send(codec.encode_datagram(record))
