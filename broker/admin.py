"""One question to the broker's admin socket, as an operator's command asks it."""

from __future__ import annotations

import secrets
from typing import Any

import zmq

from ..conf.errors import ConfigurationError, shown
from ..conf.rules import is_text
from ..wire import bodies, codec
from ..wire.errors import ProtocolError, error_from_code
from ..wire.messages import ID_BYTES, TO_ADMIN, AdminReply, AdminRequest, Failure


def ask(endpoint: str, command: str, argument: str = "", timeout_s: float = 2.0) -> dict[str, Any] | None:
    """The broker's answer; None when it gives none within `timeout_s`. Raises `RagpoolError` where it refuses, and
    `ConfigurationError` for an `argument` that cannot travel: a name with bytes that are no UTF-8."""
    if not is_text(argument):
        raise ConfigurationError(f"{shown(argument)} is not text in UTF-8")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    try:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(endpoint)
        request_id = secrets.token_bytes(ID_BYTES)
        socket.send_multipart(codec.encode(AdminRequest(request_id, command, argument)))
        if not socket.poll(int(timeout_s * 1e3)):
            return None
        (answer,) = codec.decode(socket.recv_multipart(), TO_ADMIN)
    finally:
        socket.close(linger=0)
        context.term()
    if isinstance(answer, Failure):
        raise error_from_code(answer.code, answer.message)
    if not isinstance(answer, AdminReply):
        raise ProtocolError("the broker's answer is not one")
    return bodies.decode_map(answer.body)
