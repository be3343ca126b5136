"""Signals of the parent as bytes on a socket, so that its one loop sees them like everything else. For the main thread only."""

from __future__ import annotations

import os
import signal
import socket
from types import FrameType, TracebackType
from typing import Any

HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""SIGHUP means that the terminal is gone, or without one that the index is to be loaded again; where the parent was started to
ignore it (nohup), it stays ignored. The others never are: a shell script that starts a pool in the background has it ignore
SIGINT, and may still send one to drain it."""


class Signals:
    """A context: inside it the signals in `HEARD` do nothing but show up in `read`."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup_before = -1

    def fileno(self) -> int:
        return self._reader.fileno()

    def __enter__(self) -> Signals:
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in HEARD:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, _only_wake)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(self._wakeup_before)
        self._reader.close()
        self._writer.close()

    def read(self) -> list[int]:
        """The numbers of the signals that arrived, in order."""
        try:
            return [number for number in self._reader.recv(64) if number in self._before]
        except BlockingIOError:
            return []


def has_terminal() -> bool:
    """Whether this process was started in a terminal: one of its standard streams is one."""
    return any(os.isatty(descriptor) for descriptor in (0, 1, 2))


def _only_wake(number: int, frame: FrameType | None) -> None:
    """The number is on the socket already."""
