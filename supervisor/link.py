"""The channel of whichever incarnation of the broker lives now, in the parent's loop. A new incarnation gets a new pair."""

from __future__ import annotations

import selectors
from collections.abc import Callable

from ..wire.messages import Ping, Pong
from .channel import Channel, ChannelBroken, FromBroker, ToBroker

Heard = Callable[[FromBroker], None]
Broken = Callable[[str], None]


class BrokerLink:
    """`heard` gets every record. `broken` gets a sentence when the broker broke the rules, or "" when it closed its end."""

    def __init__(self, selector: selectors.BaseSelector, heard: Heard, broken: Broken) -> None:
        self._selector = selector
        self._heard = heard
        self._broken = broken
        self._channel: Channel | None = None
        self._listening = False
        self._asked = -1
        self.answers = 0
        """How often a broker said that it is there; the proof that its loop turns."""

    @property
    def is_open(self) -> bool:
        return self._channel is not None

    def open(self) -> int:
        """A new channel; returns the descriptor that the child inherits. Call `handed_over` once it has it. Raises OSError."""
        self.close()
        self._asked = -1
        self._channel = Channel()
        return self._channel.broker_fileno()

    def handed_over(self) -> None:
        if self._channel is not None:
            self._channel.close_broker_end()
            self._selector.register(self._channel.fileno(), selectors.EVENT_READ, self._on_ready)
            self._listening = True

    def put(self, record: ToBroker) -> None:
        """Tell the broker; without one nothing is kept, since the next incarnation starts from a snapshot."""
        if self._channel is not None:
            self._channel.put(record)
            self._listen()

    def ask(self) -> None:
        """Are you there? Only once until it is answered."""
        if self._listening and self._asked < self.answers:
            self._asked = self.answers
            self.put(Ping())

    def close(self) -> None:
        """The broker is gone: hear its last words, then forget the channel."""
        if self._listening:
            self._hear()
        self._stop_listening()
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _on_ready(self) -> None:
        if not self._listening or self._channel is None:
            return
        self._channel.flush()
        broken = self._hear()
        if broken is not None:
            self._stop_listening()
            self._broken(broken)
            return
        self._listen()

    def _hear(self) -> str | None:
        """None: all is well. Else what `broken` is told."""
        if self._channel is None:
            return None
        try:
            records, closed = self._channel.receive()
        except ChannelBroken as error:
            return f"broke the channel: {error}"
        for record in records:
            if isinstance(record, Pong):
                self.answers += 1
            else:
                self._heard(record)
        return "" if closed else None

    def _listen(self) -> None:
        """Wait for room only while something waits for it."""
        if self._listening and self._channel is not None:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._channel.unsent else 0)
            self._selector.modify(self._channel.fileno(), events, self._on_ready)

    def _stop_listening(self) -> None:
        if self._listening and self._channel is not None:
            self._selector.unregister(self._channel.fileno())
        self._listening = False
