"""What systemd is told (sd_notify(3)): datagrams on the socket that NOTIFY_SOCKET names. Without that nothing is said.

The watchdog is fed by real progress alone: the parent's loop turned, and the broker answered since the last time.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping


class Notifier:
    """Takes its variables out of `environment`, so that no child speaks in our name."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        period = environment.pop("WATCHDOG_USEC", "")
        for_us = environment.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._feed_every_s = int(period) / 2e6 if for_us and period.isdecimal() else 0.0
        self._fed_at = 0.0
        self._fed_with: object = None
        self._status = ""

    def ready(self) -> None:
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent when it differs from the last."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def feed(self, progress: object, now: float) -> None:
        """Twice a period, and only if `progress` is another one than at the last time."""
        if self._feed_every_s and now >= self._fed_at + self._feed_every_s and progress != self._fed_with:
            self._fed_at, self._fed_with = now, progress
            self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as outlet:
                outlet.sendto(message.encode(errors="replace"), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self._address)
        except (OSError, ValueError):
            pass  # whoever started us does not listen: that is no reason to end
