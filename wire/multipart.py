"""Whole messages in and out of a ZeroMQ socket, never waiting. The one file of this folder that touches a socket.

The same as `recv_multipart` and `send_multipart` in half the time: a message carries up to 64 answers of three frames, and those
ask the socket whether more is to come, or combine flags that are enumerations, once a frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import zmq

Socket = zmq.Socket[bytes]

_LAST = int(zmq.DONTWAIT)
_MORE = int(zmq.DONTWAIT | zmq.SNDMORE)


def receive(socket: Socket) -> list[bytes]:
    """The frames of the next message. Raises `zmq.Again` where there is none."""
    frames = []
    more = True
    while more:
        frame = socket.recv(_LAST, copy=False)
        frames.append(frame.bytes)
        more = frame.more
    return frames


def send(socket: Socket, frames: Sequence[bytes]) -> None:
    """One message, all of it or nothing. Raises `zmq.Again` where the socket takes no more, and `zmq.ZMQError`."""
    for frame in frames[:-1]:
        socket.send(frame, _MORE)
    socket.send(frames[-1], _LAST)
