"""A worker's edge: one thread owns the socket, feeds session and device thread, does what they say. It decides nothing."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable

import zmq

from ..wire import codec, multipart
from ..wire.errors import ProtocolError, VersionMismatch
from ..wire.messages import TO_WORKER, Decoded, Malformed, Register, Request
from ..wire.progress import ProgressWriter, SharedBuffer, read_progress, stamp_beat
from .owner import Loaded, Owner
from .session import Command, Exit, OpenSocket, Run, Send, Session
from .stages import Ended

FAREWELL_MS = 500
"""How long the last answers may take to leave with a process that drains."""

log = logging.getLogger(__name__)


class Loop:
    """`load` runs on the device thread; `on_loaded` is called once its warm-up query came back."""

    def __init__(
        self,
        backend: str,
        info: Register,
        heartbeat_interval_s: float,
        progress: SharedBuffer,
        load: Callable[[], Loaded],
        on_loaded: Callable[[Register], None],
    ) -> None:
        self._backend = backend
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._poller = zmq.Poller()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._poller.register(self._wake_in.fileno(), zmq.POLLIN)
        self._session = Session(info, heartbeat_interval_s, time.monotonic())
        self._owner = Owner(load, ProgressWriter(progress), self._wake)
        self._progress = progress
        self._on_loaded = on_loaded
        self._drain_wanted = False
        self._signalled = False
        self._exit: Exit | None = None

    def run(self) -> Exit:
        """Until drained, refused, or broken."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        self._perform(self._session.start(time.monotonic()))
        self._owner.start()
        while self._exit is None:
            self._turn()
        if self._socket is not None:
            self._socket.close(linger=FAREWELL_MS)
        self._context.destroy(linger=FAREWELL_MS)
        return self._exit

    def _on_signal(self, number: int, frame: object) -> None:
        if self._signalled:
            os._exit(128 + number)
        self._signalled = self._drain_wanted = True
        self._wake()

    def _wake(self) -> None:
        try:
            self._wake_out.send(b"\0")
        except BlockingIOError:
            pass  # it is full of wake-ups already

    def _turn(self) -> None:
        now_ns = time.monotonic_ns()
        stamp_beat(self._progress, now_ns)
        self._owner.turned(now_ns)
        wait_s = self._session.next_deadline() - time.monotonic()
        ready = dict(self._poller.poll(max(0, int(wait_s * 1e3 + 0.999))))
        if self._wake_in.fileno() in ready:
            self._wake_in.recv(4096)
        self._receive()
        self._look_at_owner()
        now = time.monotonic()
        if self._drain_wanted:
            self._drain_wanted = False
            self._perform(self._session.drain(now))
        self._perform(self._session.handle_timer(self._batch_age_ms(), now))

    def _receive(self) -> None:
        current = self._socket
        while current is not None and current is self._socket and self._exit is None:
            try:
                frames = multipart.receive(current)
            except zmq.Again:
                return
            try:
                records = codec.decode(frames, TO_WORKER)
            except (ProtocolError, VersionMismatch) as error:
                log.error("the broker sent what is not of this protocol: %s", error)
                continue
            self._feed(records)

    def _feed(self, records: list[Decoded]) -> None:
        now = time.monotonic()
        requests = [record for record in records if isinstance(record, Request)]
        if requests:
            self._perform(self._session.receive_requests(requests, now))
        for record in records:
            if isinstance(record, Malformed):
                self._perform(self._session.refuse(record.id, record.reason, now))
            elif not isinstance(record, Request):
                self._perform(self._session.receive(record, now))

    def _look_at_owner(self) -> None:
        for outcome in self._owner.take():
            now = time.monotonic()
            if isinstance(outcome, Loaded):
                self._perform(self._session.loaded(outcome.info, now))
                self._on_loaded(outcome.info)
            elif isinstance(outcome, Ended):
                self._exit = Exit(outcome.code, outcome.sentence)
            else:
                self._perform(self._session.answered(outcome, now))

    def _batch_age_ms(self) -> int:
        return round(read_progress(self._progress).age_s(time.monotonic_ns()) * 1e3)

    def _perform(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Send):
                self._send(codec.encode_many(command.records))
            elif isinstance(command, Run):
                self._owner.give(command.requests, command.limits)
            elif isinstance(command, OpenSocket):
                self._open()
            else:
                self._exit = command

    def _send(self, frames: list[bytes]) -> None:
        if self._socket is not None:
            try:
                multipart.send(self._socket, frames)
            except zmq.Again:
                log.warning("the broker takes nothing more; it will ask again for what was lost")

    def _open(self) -> None:
        if self._socket is not None:
            self._poller.unregister(self._socket)
            self._socket.close(linger=0)
        opened = self._context.socket(zmq.DEALER)
        opened.setsockopt(zmq.LINGER, 0)
        opened.setsockopt(zmq.SNDHWM, 0)
        opened.setsockopt(zmq.RCVHWM, 0)
        opened.setsockopt(zmq.RECONNECT_IVL, 50)
        opened.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        opened.setsockopt(zmq.HEARTBEAT_IVL, 5_000)
        opened.connect(self._backend)
        self._poller.register(opened, zmq.POLLIN)
        self._socket = opened
